"""Decides what a gang's supervisor does next. Pure: a situation comes in, a step comes out, and a table tests it."""

import time
from collections.abc import Callable
from dataclasses import dataclass

LOOK_SECONDS = 2.0
"""How often an idle gang is probed."""
COMPACT_SECONDS = 10.0
"""How often a gang that occupies more nodes than it needs tries to move its ranks together."""
LONGEST_BACKOFF_SECONDS = 60.0


@dataclass(frozen=True)
class Situation:
    """Everything on which the next step depends."""

    target: int
    """Ranks that the gang should have: a count that has a plan."""
    ranks: int
    """Ranks in its process group; 0 if the group has to be formed."""
    busy: bool = False
    """Whether the process group is in use, by a task or by a change of the group itself."""
    scattered: bool = False
    """Whether the ranks occupy more nodes than they need, and it is time to look for room closer together."""
    retry_in: float = 0.0
    """Seconds until a step that failed may be tried again."""
    refusal: str = ""
    """Why the ranks that would stay cannot be a gang of ``target`` ranks as they are loaded; empty if they can."""


@dataclass(frozen=True)
class Form:
    """Start all ranks, as many as are wanted or as there is room for."""


@dataclass(frozen=True)
class Grow:
    """Reserve room for more ranks, start them, and take them into the process group when it is free."""

    missing: int


@dataclass(frozen=True)
class Shrink:
    """Give up the last ranks when the process group is free."""


@dataclass(frozen=True)
class Refuse:
    """Keep the ranks that there are, and report why the wanted number is refused."""

    reason: str


@dataclass(frozen=True)
class Compact:
    """Move the ranks of the last node to the gang's other nodes, if they have room."""


@dataclass(frozen=True)
class Probe:
    """Ask every rank whether it lives."""


@dataclass(frozen=True)
class Rest:
    """Do nothing: the running task's own watch follows the ranks, or it is too early to try again."""


Step = Form | Grow | Shrink | Refuse | Compact | Probe | Rest


def next_step(situation: Situation) -> Step:
    """Return the step that brings the gang closer to its target, or keeps watch over it."""
    may_try = situation.retry_in <= 0
    if not situation.ranks:
        return Form() if may_try else Rest()
    if situation.ranks < situation.target and may_try:
        return Grow(situation.target - situation.ranks)
    if situation.ranks > situation.target and may_try:
        return Refuse(situation.refusal) if situation.refusal else Shrink()
    if situation.busy:
        return Rest()
    if situation.scattered and may_try:
        return Compact()
    return Probe()


def pause(retry_in: float) -> float:
    """Return the seconds until the supervisor looks again, if nothing wakes it. Never 0: no loop may spin."""
    return min(LOOK_SECONDS, retry_in) if retry_in > 0 else LOOK_SECONDS


class Backoff:
    """Counts failures in a row and doubles the pause before the next try, from 1 s to LONGEST_BACKOFF_SECONDS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._until = 0.0

    def fail(self) -> None:
        """Note a failure."""
        self._seconds = min(max(1.0, 2 * self._seconds), LONGEST_BACKOFF_SECONDS)
        self._until = self._clock() + self._seconds

    def reset(self) -> None:
        """Note a success, or a new target: the next step may come at once."""
        self._seconds = self._until = 0.0

    def remaining(self) -> float:
        """Return the seconds until the next try."""
        return max(0.0, self._until - self._clock())
