"""In a worker pod: examine its device and libraries, the model, the storage and the connection to Redis."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Imported before the threads start: of two concurrent imports, one may find a package half loaded by the other.
try:
    import fsspec

    from app.config import ConfigError, Environment
    from app.model.folder import ModelFolder
except ImportError as error:
    not_in_the_image = f"not in the image: {error}"
else:
    not_in_the_image = ""

LFS = b"version https://git-lfs"
POINTER_BYTES = 1024
"""A Git LFS pointer, which takes the place of a file that was not fetched, is smaller than this; no weight file is."""


def main(device: str, marker: str, seconds: float = 6) -> dict[str, Any]:
    """Examine what a rank in this pod would use. ``marker`` names the file that is written and deleted."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "torch": lambda: _torch(device),
        "model": _model,
        "storage": lambda: _storage(marker),
        "redis": lambda: _redis(seconds),
    }
    pool = ThreadPoolExecutor(len(parts))
    answers = {name: pool.submit(part) for name, part in parts.items()}
    deadline = time.monotonic() + seconds
    return {name: _in_time(name, answer, deadline - time.monotonic(), seconds) for name, answer in answers.items()}


def _in_time(name: str, answer: "Future[dict[str, Any]]", left: float, seconds: float) -> dict[str, Any]:
    """Return an answer; if it takes too long, an error, so that an object store that hangs does not hide the rest."""
    try:
        return answer.result(timeout=max(0.0, left))
    except TimeoutError:
        about: dict[str, dict[str, Any]] = {
            "torch": {"version": _version("torch"), "nccl": _nccl()},
            "model": {"path": os.environ.get("MODEL_PATH", "")},
            "storage": {"uri": os.environ.get("STORAGE_URI", "")},
            "redis": {"server": "Redis"},
        }
        return about[name] | {"error": f"no answer within {seconds:g} s", "late": True}


def _torch(device: str) -> dict[str, Any]:
    """Import torch only if its CUDA matters: that takes seconds, and a CPU pod is judged by the installed packages."""
    found: dict[str, Any] = {"version": _version("torch"), "nccl": _nccl()}
    if device != "cuda":
        return found
    began = time.monotonic()
    try:
        import torch
    except Exception as error:
        return found | {"error": f"{type(error).__name__}: {error}"}
    found |= {"version": torch.__version__, "cuda": torch.version.cuda, "available": torch.cuda.is_available()}
    found["count"] = torch.cuda.device_count()
    try:
        if found["available"]:
            found["names"] = [torch.cuda.get_device_name(index) for index in range(found["count"])]
            found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found | {"seconds": time.monotonic() - began}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _nccl() -> str:
    return next((found for name in ("nvidia-nccl-cu13", "nvidia-nccl-cu12") if (found := _version(name))), "")


def _model() -> dict[str, Any]:
    path = os.environ.get("MODEL_PATH", "")
    if not path:
        return {"path": "", "error": "MODEL_PATH is not set in the pod"}
    if not_in_the_image:
        return {"path": path, "error": not_in_the_image}
    if not Path(path).is_dir() and path.count("/") == 1 and not path.startswith(("/", ".", "~")):
        return {"path": path, "hub": True, "cached": _cached(path)}
    try:
        folder = ModelFolder.read(path)
    except (ConfigError, OSError) as error:
        return {"path": path, "error": str(error)}
    weights = sorted(folder.path.glob("*/*.safetensors"))
    broken = [str(file.relative_to(folder.path)) for file in weights if _is_broken(file)]
    size = sum(file.stat().st_size for file in weights)
    return {
        "path": path,
        "pipeline": folder.pipeline_class,
        "heads": folder.heads,
        "weights": len(weights),
        "bytes": size,
        "broken": broken,
    }


def _cached(name: str) -> bool:
    home = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME", os.path.expanduser("~/.cache/huggingface")), "hub"
    )
    return Path(home, "models--" + name.replace("/", "--"), "snapshots").is_dir()


def _is_broken(file: Path) -> bool:
    """Return True if a weight file cannot be read or is only a Git LFS pointer."""
    try:
        with file.open("rb") as content:
            begin = content.read(POINTER_BYTES)
    except OSError:
        return True
    return len(begin) < 8 or begin.startswith(LFS)


def _storage(marker: str) -> dict[str, Any]:
    """Write, read and delete one small file in the storage of videos."""
    if not_in_the_image:
        return {"uri": os.environ.get("STORAGE_URI", ""), "error": not_in_the_image}
    try:
        uri = Environment.read(os.environ).storage_uri
    except ValueError as error:
        return {"uri": os.environ.get("STORAGE_URI", ""), "error": str(error)}
    began = time.monotonic()
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
        root = root.rstrip("/")
        target = f"{root}/{marker}"
        filesystem.makedirs(root, exist_ok=True)
        filesystem.pipe_file(target, b"wan22")
        content = filesystem.cat_file(target)
        filesystem.rm_file(target)
    except Exception as error:
        return {"uri": uri, "error": f"{type(error).__name__}: {error}"}
    found: dict[str, Any] = {"uri": uri, "seconds": time.monotonic() - began}
    if content != b"wan22":
        found["error"] = f"wrote b'wan22', read {content!r}"
    if "file" in filesystem.protocol:
        room = os.statvfs(root)
        found |= {"free": room.f_bavail * room.f_frsize, "root": root}
    return found


def _redis(seconds: float) -> dict[str, Any]:
    """Open a connection to Redis; the head pod checks its password and writes."""
    url = urlsplit(os.environ.get("REDIS_URL", ""))
    host = url.hostname or os.environ.get("REDIS_HOST", "")
    port = url.port or int(os.environ.get("REDIS_PORT") or 6379)
    if not host:
        return {"server": "", "error": "neither REDIS_URL nor REDIS_HOST is set in the pod"}
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        return {"server": f"{host}:{port}", "error": str(error)}
    return {"server": f"{host}:{port}"}
