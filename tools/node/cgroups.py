"""The node's control groups: one folder in each hierarchy, which pods stand under and which outlives a killed node."""

import contextlib
import os
from pathlib import Path

from tools.node.place import CGROUP

ROOT = Path("/sys/fs/cgroup")


def make() -> None:
    """Make the node's folder in every hierarchy (version 1) or in the only one (version 2)."""
    for hierarchy in _hierarchies():
        (hierarchy / CGROUP).mkdir(exist_ok=True)
        # A new cpuset is empty, and no process may enter it.
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / CGROUP / name).exists() and (hierarchy / name).exists():
                (hierarchy / CGROUP / name).write_text((hierarchy / name).read_text())


def sweep() -> None:
    """Remove them all; what still holds a process stays."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def processes() -> set[int]:
    """Return the processes that are in them."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / CGROUP):
            with contextlib.suppress(OSError):
                found |= {int(line) for line in Path(folder, "cgroup.procs").read_text().split()}
    return found


def _hierarchies() -> list[Path]:
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [
        folder
        for folder in ROOT.iterdir()
        if folder.is_dir() and not folder.is_symlink() and (folder / "cgroup.procs").exists()
    ]
