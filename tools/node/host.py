"""The node as the machine sees it: one process tree, which is started, found again and ended here."""

import atexit
import contextlib
import fcntl
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tools.node import cgroups
from tools.node.place import Place

ROOT = Path(__file__).parents[2]
PACKAGES = Path(__file__).with_name("packages.txt")
"""The programs that the node takes from the machine, each with the Debian package that has it."""
START_SECONDS = 240

_started: dict[Path, subprocess.Popen[bytes]] = {}
"""First processes of the nodes that this process started; it is their parent and buries them."""


@atexit.register
def _leave() -> None:
    """Let nodes go on after this process; Python would warn of each as of a child that was forgotten."""
    for process in _started.values():
        process.returncode = 0


class HostError(RuntimeError):
    """The node cannot be started here; the message says what is missing and what to do."""


def up(place: Place) -> bool:
    """Start the node unless it runs, and return whether it was started now. Ready for pods afterwards.

    Raises:
        HostError: this machine lacks something, or the node did not start; the message says why.
    """
    with _one_at_a_time(place):
        if running(place) and (place.run / "ready").exists():
            return False
        _require()
        _end(place)
        _start(place)
        return True


def down(place: Place) -> bool:
    """End the node with everything in it and remove its files, and return whether there was one. Images stay."""
    with _one_at_a_time(place):
        was = running(place) is not None
        _end(place)
        return was


def running(place: Place) -> int | None:
    """Return the process id of the node's first process as the machine sees it; None if there is no node."""
    with contextlib.suppress(OSError, ValueError):
        pid, born = (place.run / "pid").read_text().split()
        if _born(int(pid)) == born:
            return int(pid)
    return None


def _start(place: Place) -> None:
    place.log.mkdir(parents=True)
    place.volumes.mkdir()
    place.images.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as listener, (place.log / "supervisor.log").open("ab") as log:
        listener.set_inheritable(True)
        process = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc"),
                *("--propagation", "private", "--kill-child"),
                *(sys.executable, "-m", "tools.node.init", str(place.root), str(listener.fileno())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"},
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        _started[place.root] = process
        (place.run / "pid").write_text(f"{process.pid} {_born(process.pid)}")
    deadline = time.monotonic() + START_SECONDS
    while not (place.run / "ready").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            failed = place.run / "failed"
            why = failed.read_text() if failed.exists() else _tail(place.log / "supervisor.log")
            _end(place, keep=True)
            raise HostError(f"the node did not start: {why}")
        time.sleep(0.1)


def _end(place: Place, keep: bool = False) -> None:
    """End the node's processes, its namespaces' mounts with them, and sweep what a killed node left."""
    pid, started = running(place), _started.pop(place.root, None)
    if pid:
        os.kill(pid, signal.SIGKILL)
    if started:
        started.wait()
    # The kernel ends all of a process namespace; it takes a moment.
    deadline = time.monotonic() + 30
    while left := _left(place):
        if time.monotonic() > deadline:
            raise HostError(f"processes of the node do not end: {sorted(left)}")
        time.sleep(0.05)
    cgroups.sweep(place.cgroup)
    if place.made.exists():
        for folder in place.made.read_text().split():
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    if not keep and place.run.exists():
        shutil.rmtree(place.run)


def _left(place: Place) -> set[int]:
    """Return the node's processes: what is in its control groups, and what is in another namespace and names its files.

    Its first process, whose id is written down, may be gone before them.
    """
    found = cgroups.processes(place.cgroup)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            inside = os.readlink(process / "ns" / "pid") != os.readlink("/proc/self/ns/pid")
            if inside and str(place.root).encode() in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


def _require() -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        raise HostError(
            "the node needs Linux and root (namespaces, mounts and a kubelet); use sudo, or set E2E_KUBECONFIG to the "
            "kubeconfig of a cluster"
        )
    pairs = [line.split() for line in PACKAGES.read_text().splitlines()]
    missing = sorted({package for program, package in pairs if not shutil.which(program)})
    if missing:
        raise HostError(f"programs of these Debian packages are missing: apt-get install {' '.join(missing)}")
    if importlib.util.find_spec("wan22_operator") is None and not (ROOT / "operator").is_dir():
        raise HostError(f"{ROOT} is no checkout of the project; run it from one")


@contextlib.contextmanager
def _one_at_a_time(place: Place) -> Iterator[None]:
    place.root.mkdir(parents=True, exist_ok=True)
    with open(place.root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _born(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty if there is none (a zombie counts as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
