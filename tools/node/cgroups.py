"""The node's control groups: one folder in each hierarchy, which pods stand under and which outlives a killed node."""

import contextlib
import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def make(name: str) -> None:
    """Make the node's folder in every hierarchy (version 1) or in the only one (version 2)."""
    if (ROOT / "cgroup.controllers").exists():
        # Pods' limits need the controllers all the way down.
        with contextlib.suppress(OSError):
            wanted = " ".join(f"+{one}" for one in (ROOT / "cgroup.controllers").read_text().split())
            (ROOT / "cgroup.subtree_control").write_text(wanted)
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)
        # A new cpuset is empty, and no process may enter it.
        for file in ("cpuset.cpus", "cpuset.mems"):
            if (hierarchy / name / file).exists() and (hierarchy / file).exists():
                (hierarchy / name / file).write_text((hierarchy / file).read_text())


def sweep(name: str) -> None:
    """Remove them all; what still holds a process stays."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def processes(name: str) -> set[int]:
    """Return the processes that are in them."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name):
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
