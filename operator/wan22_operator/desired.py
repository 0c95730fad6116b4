"""Which counts are wanted of an object and which are active, read from its annotations and its spec. Pure."""

import json
import re
from dataclasses import dataclass
from functools import lru_cache

from app.config import MAX_GANGS
from app.plan import MAX_RANKS, NoPlanError, allowed_counts, gang_plan, largest_planned_count, worker_pods
from serve_config import Counts as FoundCounts
from serve_config import ServeConfigError, read_counts
from serve_config.names import heads_of
from wan22_operator import constants as names
from wan22_operator.snapshots import Snapshot, whole_number

DEFAULT_WORKERS = 2


class BadCountError(ValueError):
    """A wanted count is not possible; the message names the annotation, its value and what is allowed."""


@dataclass(frozen=True)
class Counts:
    """Ranks of one gang, and the number of gangs."""

    total_workers: int
    gangs: int

    def pods(self, ranks_per_pod: int) -> int:
        """Return the worker pods that these counts need."""
        return worker_pods(self.total_workers, self.gangs, ranks_per_pod)

    def __str__(self) -> str:
        return f"{self.gangs} gang(s) of {self.total_workers}"


@dataclass(frozen=True)
class Active:
    """What the operator has set so far."""

    counts: Counts
    """The counts in serveConfigV2."""
    pods: int
    """Worker pods that the object has room for; during a resize more than its counts need."""


def wanted(obj: Snapshot) -> Counts:
    """Return the wanted counts: the user's annotations, else the chart's values, else the counts first found.

    Raises:
        BadCountError: an annotation is not a count, or there is no parallel plan for it.
    """
    heads = attention_heads(obj)
    base = _declared(obj) or _adopted(obj) or found(obj)
    workers = _count(obj, names.TOTAL_WORKERS, base.total_workers, MAX_RANKS, heads)
    gangs = _count(obj, names.GANGS, base.gangs, MAX_GANGS, None)
    if heads is not None:
        try:
            gang_plan(workers, heads)
        except NoPlanError as error:
            source = names.TOTAL_WORKERS if names.TOTAL_WORKERS in obj.annotations else names.DECLARED
            raise BadCountError(f"{source}: {error}") from None
    return Counts(workers, gangs)


def active(obj: Snapshot) -> Active | None:
    """Return what the operator's annotations record as active; None if one of them is absent or unreadable."""
    workers, gangs, pods = (
        _plain(obj.annotations.get(key)) for key in (names.ACTIVE_WORKERS, names.ACTIVE_GANGS, names.ACTIVE_PODS)
    )
    if workers is None or gangs is None or pods is None:
        return None
    return Active(Counts(workers, gangs), pods)


def found(obj: Snapshot) -> Counts:
    """Return the counts in the spec's serveConfigV2; without one, the largest counts that its pods have room for."""
    written = serve_counts(obj.serve_config)
    group = obj.group
    room = (group.replicas or 0) * group.ranks_per_pod if group else 0
    fallback = _largest(room, attention_heads(obj)) if room and not obj.serve_config else DEFAULT_WORKERS
    workers = written.total_workers if written else None
    gangs = written.gangs if written else None
    return Counts(workers or fallback, gangs or 1)


def attention_heads(obj: Snapshot) -> int | None:
    """Return the attention heads of the object's model; None if nothing tells them."""
    written = serve_counts(obj.serve_config)
    if written and written.attention_heads:
        return written.attention_heads
    declared = whole_number(_json(obj.annotations.get(names.DECLARED)).get("attentionHeads"), least=1)
    return declared or heads_of(obj.model_path)


def _largest(room: int, heads: int | None) -> int:
    most = min(room, MAX_RANKS)
    return largest_planned_count(most, heads) if heads else most


def readable(obj: Snapshot) -> bool:
    """Return True if the operator can set counts in the object's serveConfigV2 or, if it is absent, render one."""
    return not obj.serve_config or serve_counts(obj.serve_config) is not None


@lru_cache(maxsize=2048)
def serve_counts(text: str) -> FoundCounts | None:
    """Return the counts in a serveConfigV2; None if it is empty, unreadable or not this project's."""
    if not text:
        return None
    try:
        return read_counts(text)
    except ServeConfigError:
        return None


def _declared(obj: Snapshot) -> Counts | None:
    return _counts_in(obj, names.DECLARED)


def _adopted(obj: Snapshot) -> Counts | None:
    return _counts_in(obj, names.ADOPTED)


def _counts_in(obj: Snapshot, annotation: str) -> Counts | None:
    value = _json(obj.annotations.get(annotation))
    workers = whole_number(value.get("totalWorkers"), least=1)
    return Counts(workers, whole_number(value.get("gangs"), least=1) or 1) if workers else None


def _count(obj: Snapshot, annotation: str, default: int, most: int, heads: int | None) -> int:
    text = obj.annotations.get(annotation)
    if text is None:
        return default
    value = _plain(text)
    if value is None or value > most:
        allowed = f"a whole number from 1 to {most}"
        if heads is not None:
            allowed = f"one of {', '.join(map(str, allowed_counts(heads)))}"
        raise BadCountError(
            f"annotation {annotation}: found {text[:40]!r}, allowed is {allowed}; "
            f'set it with `kubectl annotate --overwrite`, or remove it with "{annotation}-"'
        )
    return value


def _plain(text: str | None) -> int | None:
    """Return a count written as plain digits, at least 1; None for anything else ("0", "-1", "2.5", "1e3", "four")."""
    if text is None or not re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII):
        return None
    return int(text)


def _json(text: str | None) -> dict[str, object]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
