"""What the webhooks make of an object within the request: the operator's annotations applied to its spec. Pure.

The reconcile uses ``drift`` as well: what it returns for a stored object is what a webhook that was away did not do.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from app.config import explain
from serve_config import Pods, ServeValues, check_serve_config, render, with_counts
from wan22_operator import constants as names
from wan22_operator import desired
from wan22_operator.desired import Active, BadCountError, Counts
from wan22_operator.snapshots import Snapshot, WorkerGroup, names_in

Patch = list[dict[str, Any]]


class RefusedError(ValueError):
    """The request must not pass; the message is what its user reads."""


def mutate(new: Snapshot, old: Snapshot | None) -> Patch:
    """Return the JSON patch that brings an incoming object's spec and the operator's annotations together.

    ``old`` is the stored object, None at creation.
    """
    if not new.managed or new.deleting or new.group is None or not desired.readable(new):
        return []
    kept = _annotations(new, old)
    if kept is None:
        return []
    changes = {key: value for key, value in kept.items() if new.annotations.get(key) != value}
    try:
        return annotate(new, changes) + drift(annotated(new, kept), old)
    except RefusedError:
        return []  # the validating webhook says why


def drift(obj: Snapshot, old: Snapshot | None = None) -> Patch:
    """Return the JSON patch that makes the spec what the operator's annotations on the same object say."""
    active = desired.active(obj)
    if active is None or obj.group is None or not desired.readable(obj):
        return []
    patch: Patch = []
    if obj.kind == names.RAY_SERVICE:
        text = configured(obj, active)
        if text != obj.serve_config:
            patch.append({"op": "add", "path": "/spec/serveConfigV2", "value": text})
    if obj.autoscaling or obj.group.hosts != 1:
        return patch
    leaving = _leaving(obj)
    pods = max(0, active.pods - len(leaving))
    have = {
        "replicas": obj.group.replicas,
        "minReplicas": obj.group.minimum,
        "maxReplicas": obj.group.maximum,
    }
    patch += [
        {"op": "add", "path": f"{obj.group.path}/{field}", "value": pods} for field, is_ in have.items() if is_ != pods
    ]
    if obj.kind == names.RAY_CLUSTER:
        patch += _workers_to_delete(obj, old, leaving)
    return patch


def configured(obj: Snapshot, active: Active) -> str:
    """Return the object's serveConfigV2 with the active counts, rendered from defaults where it has none.

    Raises:
        RefusedError: it has none, and its worker pods are too small for the defaults.
    """
    assert obj.group is not None
    counts = active.counts
    if obj.serve_config:
        return _with_counts(obj.serve_config, counts, active.pods)
    return _with_counts(_rendered(counts, obj.group, desired.attention_heads(obj)), counts, active.pods)


def validate(new: Snapshot, old: Snapshot | None) -> None:
    """Let an incoming object pass, or say why not. Only what the request changes is judged.

    Raises:
        RefusedError: with the field, what was found, what is allowed and the remedy.
    """
    if not new.managed or new.deleting:
        return
    if _changed(new, old, names.TOTAL_WORKERS, names.GANGS, names.DECLARED):
        try:
            desired.wanted(new)
        except BadCountError as error:
            raise RefusedError(str(error)) from None
    if new.serve_config and (old is None or not old.managed or old.serve_config != new.serve_config):
        problems = check_serve_config(new.serve_config, Pods(new.group.cpus, new.group.gpus) if new.group else None)
        if problems:
            raise RefusedError("spec.serveConfigV2: " + "; ".join(map(str, problems)))
    if not new.serve_config and new.kind == names.RAY_SERVICE and new.group and _changed(new, old, names.ACTIVE_PODS):
        configured(new, desired.active(new) or Active(desired.wanted(new), 1))


def annotate(obj: Snapshot, changes: Mapping[str, str | None]) -> Patch:
    """Return the JSON patch that sets annotations, and removes those whose value is None."""
    if not changes:
        return []
    patch: Patch = [] if obj.has_annotations else [{"op": "add", "path": "/metadata/annotations", "value": {}}]
    for key, value in changes.items():
        path = f"/metadata/annotations/{key.replace('/', '~1')}"
        if value is not None:
            patch.append({"op": "add", "path": path, "value": value})
        elif key in obj.annotations:
            patch.append({"op": "remove", "path": path})
    return patch


def annotated(obj: Snapshot, changes: Mapping[str, str | None]) -> Snapshot:
    """Return the object as it is once ``changes`` are made to its annotations."""
    merged = {**obj.annotations, **changes}
    return replace(obj, annotations={key: value for key, value in merged.items() if value is not None})


def active_annotations(active: Active) -> dict[str, str]:
    """Return the annotations that say what is active."""
    return {
        names.ACTIVE_WORKERS: str(active.counts.total_workers),
        names.ACTIVE_GANGS: str(active.counts.gangs),
        names.ACTIVE_PODS: str(active.pods),
    }


def first_sight(new: Snapshot, seen: Snapshot, created: bool) -> dict[str, str]:
    """Return the operator's annotations for an object that has none: as found in ``seen``, or as wanted if new."""
    assert new.group is not None
    assert seen.group is not None
    found = desired.found(seen)
    given: dict[str, str] = {}
    if names.DECLARED not in new.annotations and names.ADOPTED not in new.annotations:
        given[names.ADOPTED] = json.dumps({"totalWorkers": found.total_workers, "gangs": found.gangs}, sort_keys=True)
    counts = found
    if created:
        try:
            counts = desired.wanted(annotated(new, given))
        except BadCountError:
            counts = found
    pods = counts.pods(new.group.ranks_per_pod)
    if not created and seen.group.replicas is not None:
        pods = max(pods, seen.group.replicas)
    return given | active_annotations(Active(counts, pods))


def _annotations(new: Snapshot, old: Snapshot | None) -> dict[str, str] | None:
    """Return what the operator's annotations must be on the incoming object; None where nothing is known yet."""
    assert new.group is not None
    if new.kind == names.RAY_CLUSTER and not new.standalone:
        return {} if desired.active(new) else None
    before = desired.active(old) if old is not None and old.managed else None
    current = desired.active(new) if old is None or old.managed else None
    if current is None and before is None:
        return first_sight(new, old or new, created=old is None)
    active = current or before
    assert active is not None
    need = active.counts.pods(new.group.ranks_per_pod)
    before_group = old.group if old is not None else None
    same_size = before_group is None or before_group.ranks_per_pod == new.group.ranks_per_pod
    return active_annotations(Active(active.counts, max(need, active.pods) if same_size else need))


def _leaving(obj: Snapshot) -> tuple[str, ...]:
    return names_in(obj.annotations.get(names.WORKERS_TO_DELETE)) if obj.kind == names.RAY_CLUSTER else ()


def _workers_to_delete(obj: Snapshot, old: Snapshot | None, leaving: tuple[str, ...]) -> Patch:
    """Return the patch of ``scaleStrategy``; a list that someone else wrote stays."""
    assert obj.group is not None
    ours = leaving or (old is not None and _leaving(old) == obj.group.workers_to_delete)
    if not ours or obj.group.workers_to_delete == leaving:
        return []
    value = list(leaving)
    if not obj.group.has_scale_strategy:
        return [{"op": "add", "path": f"{obj.group.path}/scaleStrategy", "value": {"workersToDelete": value}}]
    return [{"op": "add", "path": f"{obj.group.path}/scaleStrategy/workersToDelete", "value": value}]


def _changed(new: Snapshot, old: Snapshot | None, *keys: str) -> bool:
    if old is None or not old.managed:
        return True
    return any(new.annotations.get(key) != old.annotations.get(key) for key in keys)


@lru_cache(maxsize=1024)
def _with_counts(text: str, counts: Counts, pods: int) -> str:
    return with_counts(text, total_workers=counts.total_workers, gangs=counts.gangs, pods=pods)


@lru_cache(maxsize=64)
def _rendered(counts: Counts, group: WorkerGroup, heads: int | None) -> str:
    given = {} if group.cpus is None else {"worker_cpus": group.cpus}
    try:
        values = ServeValues(
            total_workers=counts.total_workers,
            gangs=counts.gangs,
            gpus_per_worker=group.gpus,
            attention_heads=heads,
            **given,
        )
    except ValidationError as error:
        raise RefusedError(
            f"spec.serveConfigV2 is absent, and none can be rendered for worker group {names.WORKER_GROUP}: "
            f"{explain(error)}"
        ) from None
    return render(values)
