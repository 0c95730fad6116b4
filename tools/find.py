"""Where a tool is: ``KUBEBUILDER_ASSETS``, then PATH where the version fits, then the cache of own builds."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tools.catalog import NODE, TOOLS, Tool

HERE = Path(__file__).parent


class MissingToolError(RuntimeError):
    """A program is neither installed nor built; the message says how to build it."""


@functools.cache
def binary(name: str) -> Path:
    """Return the program ``name``.

    Raises:
        MissingToolError: it is nowhere; the message names the command that builds it.
    """
    tool = lookup(name)
    found = installed(tool) or built(tool)
    if found is None:
        target = "node-tools" if tool in NODE else "tools"
        raise MissingToolError(f"{name} is neither on PATH in a fitting version nor built; run `make {target}`")
    return found


def lookup(name: str) -> Tool:
    """Return the tool of that name, or say which names there are."""
    if name not in TOOLS:
        raise MissingToolError(f"there is no tool {name!r}; use one of {', '.join(sorted(TOOLS))}")
    return TOOLS[name]


def installed(tool: Tool) -> Path | None:
    """Return a copy of the tool that the machine has already, if its version fits."""
    if tool.ask is None:
        return None
    places = [os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PATH")]
    for place in filter(None, places):
        found = shutil.which(tool.name, path=place)
        if found and _fits(tool, found):
            return Path(found)
    return None


def _fits(tool: Tool, program: str) -> bool:
    assert tool.ask is not None
    try:
        answer = subprocess.run([program, *tool.ask], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(tool.version, answer) is not None


def cache() -> Path:
    """Return the folder of own builds, which all clones on this machine share."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "wan22-rayservice" / "tools"


def folder(tool: Tool) -> Path:
    """Return where the tool's own build lies; its name changes with everything the build depends on."""
    pins = HERE / tool.group
    content = [
        (pins / "go.mod").read_bytes(),
        (pins / "go.sum").read_bytes(),
        f"{tool.package} {tool.ldflags}".encode(),
    ]
    key = hashlib.sha256(b"\0".join(content)).hexdigest()[:12]
    return cache() / f"{tool.name}-{key}"


def built(tool: Tool) -> Path | None:
    """Return the tool's own build, if there is one."""
    program = folder(tool) / tool.name
    return program if program.is_file() else None


def kuberay_crds() -> list[Path]:
    """Return KubeRay's custom resource definitions, of the same module that its operator is built from."""
    crds = sorted((folder(TOOLS["kuberay-operator"]) / "crds").glob("ray.io_*.yaml"))
    if not crds:
        raise MissingToolError("KubeRay's CRDs are not there; run `make tools`")
    return crds
