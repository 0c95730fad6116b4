"""Programs that a test starts: each ends with the test run, however that ends."""

import ctypes
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

PR_SET_PDEATHSIG = 1
T = TypeVar("T")


class Process:
    """One program; its output goes to a log file."""

    def __init__(self, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    def alive(self) -> bool:
        """Return whether it runs."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """End it at once, without a word."""
        self._popen.kill()
        self._popen.wait()

    def stop(self, seconds: float = 10) -> None:
        """Ask it to end, and insist after a while."""
        if self.alive():
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def tail(self, lines: int = 40) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
