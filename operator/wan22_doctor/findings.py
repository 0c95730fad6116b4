"""What a check says, and why a thing that it needs could not be looked at."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, TypeVar

T = TypeVar("T")


class Result(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    """Not as it should be, or not yet; it works all the same."""
    FAILED = "failed"
    SKIPPED = "not checked"


@dataclass(frozen=True)
class Finding:
    """One row of the report."""

    result: Result
    evidence: str
    """The text that was found, short."""
    remedy: str = ""
    """A command or a setting."""
    check: str = ""
    """Name of the check; ``checks.judge`` fills it in."""
    blind: bool = False
    """The doctor was kept from looking, so this says nothing about health."""


def ok(evidence: str) -> Finding:
    """Return that all is well."""
    return Finding(Result.OK, evidence)


def warning(evidence: str, remedy: str = "") -> Finding:
    """Return that something is not as it should be, though it works."""
    return Finding(Result.WARNING, evidence, remedy)


def failed(evidence: str, remedy: str) -> Finding:
    """Return that something is wrong."""
    return Finding(Result.FAILED, evidence, remedy)


def skipped(why: str) -> Finding:
    """Return that there was nothing to check."""
    return Finding(Result.SKIPPED, why)


class Cause(StrEnum):
    """What kept a thing from being looked at."""

    FAULT = "fault"
    """It should be there: a finding of its own, told once."""
    FOLLOWS = "follows"
    """Something that another check reports."""
    BLIND = "blind"
    """The doctor may not, or cannot, look."""
    OFF = "off"
    """There is nothing to look at, as somebody wants it."""


@dataclass(frozen=True)
class NotSeen:
    """Stands for what could not be looked at."""

    why: str
    remedy: str = ""
    cause: Cause = Cause.FOLLOWS

    def behind(self) -> "NotSeen":
        """Return what this means for what depends on it."""
        return NotSeen(self.why, "", self.cause if self.cause != Cause.FAULT else Cause.FOLLOWS)


Seen: TypeAlias = T | NotSeen
