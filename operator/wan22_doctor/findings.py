"""The result of a check, and why a fact that it needs is missing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, TypeVar

T = TypeVar("T")


class Result(StrEnum):
    """Result of a check."""

    OK = "ok"
    """All is well."""
    WARNING = "warning"
    """Something is not as it should be, or not yet, but it works."""
    FAILED = "failed"
    """Something is wrong."""
    SKIPPED = "not checked"
    """A fact that the check needs is missing, or there is nothing to check."""


@dataclass(frozen=True)
class Finding:
    """One row of the report."""

    result: Result
    evidence: str
    """What was found, in short."""
    remedy: str = ""
    """A command or a setting."""
    check: str = ""
    """Name of the check; ``checks.judge`` fills it in."""
    blind: bool = False
    """True if the doctor lacks access to a fact, so that this result says nothing about health."""


def ok(evidence: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(Result.OK, evidence)


def warning(evidence: str, remedy: str = "") -> Finding:
    """Return the finding that something is not as it should be, but works."""
    return Finding(Result.WARNING, evidence, remedy)


def failed(evidence: str, remedy: str) -> Finding:
    """Return the finding that something is wrong."""
    return Finding(Result.FAILED, evidence, remedy)


def skipped(why: str) -> Finding:
    """Return the finding that there was nothing to check."""
    return Finding(Result.SKIPPED, why)


class Cause(StrEnum):
    """Why a fact is missing."""

    FAULT = "fault"
    """Something that should exist does not; the first check that needs it reports this as a failure."""
    FOLLOWS = "follows"
    """It is the consequence of something that another check reports."""
    BLIND = "blind"
    """The doctor lacks a permission or an answer."""
    OFF = "off"
    """There is nothing to find out, because somebody switched it off or left it out."""


@dataclass(frozen=True)
class NotSeen:
    """A missing fact: why it is missing and what to do about it."""

    why: str
    remedy: str = ""
    cause: Cause = Cause.FOLLOWS

    def behind(self) -> "NotSeen":
        """Return the reason to report for a check that depends on this one."""
        return NotSeen(self.why, "", self.cause if self.cause != Cause.FAULT else Cause.FOLLOWS)


class NotSeenError(Exception):
    """A fact could not be found out; ``seen`` tells why."""

    def __init__(self, seen: NotSeen) -> None:
        super().__init__(seen.why)
        self.seen = seen


Seen: TypeAlias = T | NotSeen
