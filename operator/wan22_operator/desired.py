"""What is wanted of an object and what is active on it, read from its annotations and its spec. Pure."""

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
from wan22_operator.snapshots import Snapshot

DEFAULT_WORKERS = 2


class BadCountError(ValueError):
    """A count that was asked for cannot be; the message names the annotation, what it holds and what is allowed."""


@dataclass(frozen=True)
class Counts:
    """Ranks of one gang, and gangs."""

    total_workers: int
    gangs: int

    def pods(self, ranks_per_pod: int) -> int:
        """Return the worker pods that these counts need."""
        return worker_pods(self.total_workers, self.gangs, ranks_per_pod)

    def __str__(self) -> str:
        return f"{self.gangs} gang(s) of {self.total_workers}"


@dataclass(frozen=True)
class Active:
    """What the operator has set so far: the counts that Serve is given, and the pods that may exist for them."""

    counts: Counts
    pods: int


def wanted(obj: Snapshot) -> Counts:
    """Return the counts that are asked for: the user's annotations, else the chart's values, else those first found.

    Raises:
        BadCountError: an annotation is no count, or there is no parallel plan for it.
    """
    heads = attention_heads(obj)
    base = _declared(obj) or _adopted(obj) or found(obj)
    workers = _count(obj, names.TOTAL_WORKERS, base.total_workers, MAX_RANKS, heads)
    gangs = _count(obj, names.GANGS, base.gangs, MAX_GANGS, None)
    if heads is not None:
        try:
            gang_plan(workers, heads)
        except NoPlanError as error:
            where = names.TOTAL_WORKERS if names.TOTAL_WORKERS in obj.annotations else names.DECLARED
            raise BadCountError(f"{where}: {error}") from None
    return Counts(workers, gangs)


def active(obj: Snapshot) -> Active | None:
    """Return what the operator's own annotations say is active; None where they are absent or not readable."""
    workers, gangs, pods = (
        _plain(obj.annotations.get(key)) for key in (names.ACTIVE_WORKERS, names.ACTIVE_GANGS, names.ACTIVE_PODS)
    )
    if workers is None or gangs is None or pods is None:
        return None
    return Active(Counts(workers, gangs), pods)


def found(obj: Snapshot) -> Counts:
    """Return the counts that the spec holds; where it holds none, what its pods have room for."""
    written = serve_counts(obj.serve_config)
    group = obj.group
    room = (group.replicas or 0) * group.ranks_per_pod if group else 0
    fallback = _largest(room, attention_heads(obj)) if room and not obj.serve_config else DEFAULT_WORKERS
    workers = written.total_workers if written else None
    gangs = written.gangs if written else None
    return Counts(workers or fallback, gangs or 1)


def attention_heads(obj: Snapshot) -> int | None:
    """Return the attention heads of the object's model, where they are known."""
    written = serve_counts(obj.serve_config)
    if written and written.attention_heads:
        return written.attention_heads
    declared = _whole(_json(obj.annotations.get(names.DECLARED)).get("attentionHeads"))
    return declared or heads_of(obj.model_path)


def _largest(room: int, heads: int | None) -> int:
    most = min(room, MAX_RANKS)
    return largest_planned_count(most, heads) if heads else most


def readable(obj: Snapshot) -> bool:
    """Return whether the operator can set counts in the object's serveConfigV2 (an absent one is rendered)."""
    return not obj.serve_config or serve_counts(obj.serve_config) is not None


@lru_cache(maxsize=2048)
def serve_counts(text: str) -> FoundCounts | None:
    """Return the counts in a serveConfigV2; None where it is absent, unreadable or not this project's."""
    if not text:
        return None
    try:
        return read_counts(text)
    except ServeConfigError:
        return None


def _declared(obj: Snapshot) -> Counts | None:
    value = _json(obj.annotations.get(names.DECLARED))
    workers = _whole(value.get("totalWorkers"))
    return Counts(workers, _whole(value.get("gangs")) or 1) if workers else None


def _adopted(obj: Snapshot) -> Counts | None:
    value = _json(obj.annotations.get(names.ADOPTED))
    workers = _whole(value.get("totalWorkers"))
    return Counts(workers, _whole(value.get("gangs")) or 1) if workers else None


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


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
