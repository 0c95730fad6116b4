"""Ray workers that begin where every rank's imports end, so that a test's gang starts in one second and not in ten.

Importing torch and diffusers takes a rank ten seconds of one core, and the tests start more than a hundred ranks. Here
one process imports them, and Ray's workers are forks of it: Ray starts a worker through the runtime environment's
``py_executable``, which is this file with the address of that process; it hands over its arguments, environment and
output, and lives as long as the fork. Nothing else differs, and what people run (``make demo``, the images, the
benchmarks) does without.

To find out whether a failure comes from this: ``WAN22_TESTS_COLD=1 pytest tests/service`` does without as well.
"""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

_STREAMS = 3
_MESSAGE_BYTES = 1 << 20


@contextmanager
def warm_workers(folder: Path) -> Iterator[str]:
    """Yield the ``py_executable`` whose workers are forks; who asks before the imports are done waits for them."""
    address = str(folder / "warm.socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", str(listener.fileno())],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # a process with threads should not fork
        )
    with server:  # it ends when its standard input does, and so also with a test run that is killed
        # Without site packages, which would take longer to find than the fork takes.
        yield f"{sys.executable} -I -S {__file__} ask {address}"


def _ask(address: str, arguments: list[str]) -> None:
    """As Ray's worker command: have a fork of the server run ``arguments``, and end when it has ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(address)
        asked = json.dumps({"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()})
        socket.send_fds(server, [asked.encode()], range(_STREAMS))
        server.recv(1)


def _serve(listener: socket.socket) -> None:
    import app.model.pipeline  # noqa: F401 - and not ray, which reads the environment of its worker when it is imported

    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("an import started a thread, which a fork would lack")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: a killed worker is gone at once
    while sys.stdin not in select([listener, sys.stdin], [], [])[0]:
        client, _ = listener.accept()
        message, streams, _, _ = socket.recv_fds(client, _MESSAGE_BYTES, _STREAMS)
        if os.fork() == 0:
            listener.close()
            _become(json.loads(message), streams)
        client.close()
        for stream in streams:
            os.close(stream)


def _become(asked: dict[str, Any], streams: list[int]) -> None:
    """In the fork: be the process that would have been started. The client's connection stays open until the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # as Ray does with its workers, to end each with its children
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["arguments"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        _ask(sys.argv[2], sys.argv[3:])
