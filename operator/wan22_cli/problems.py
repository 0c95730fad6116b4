"""How a command ends without success: a message for people, a code for programs, an exit status for scripts."""

from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """The exit statuses."""

    DONE = 0
    """The command did what it is for."""
    NO = 1
    """The answer is no: the task failed or was cancelled, it has no video, or the service is not ready."""
    REFUSED = 2
    """The command line, the configuration or the request is wrong."""
    MISSING = 3
    """There is no such task, or its video was removed."""
    SILENT = 4
    """The service or the cluster does not answer, or not in time."""
    INTERRUPTED = 130
    """Ctrl-C."""


STATUSES = (
    "Exit status: 0 done; 1 the answer is no (a task that failed or was cancelled, no video, not ready); 2 a wrong "
    "command line, configuration or request; 3 no such task; 4 the service does not answer; 130 Ctrl-C."
)


class Problem(Exception):
    """A command cannot go on; the message says what was found and what to do."""

    def __init__(self, status: Exit, message: str, code: str = "", **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or status.name.lower()
        self.details = details

    def as_json(self) -> dict[str, Any]:
        """Return the problem in the form of the service's own error answers."""
        return {"error": {"code": self.code, "message": str(self), **self.details}}
