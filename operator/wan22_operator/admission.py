"""Decides, within an admission request, how the operator's annotations are applied to an object's spec. Pure.

The reconcile uses ``drift`` too. For a stored object it returns the changes that a webhook outage left undone.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

from pydantic import ValidationError

from app.config import explain
from serve_config import Pods, ServeConfigError, ServeValues, check_serve_config, render, with_counts
from wan22_operator import constants as names
from wan22_operator import desired
from wan22_operator.desired import Active, BadCountError, Counts
from wan22_operator.json_patch import Patch
from wan22_operator.snapshots import Snapshot, WorkerGroup, names_in, whole_number


class RefusedError(ValueError):
    """The request must not pass; the message is written for the user who sent it."""


@dataclass(frozen=True)
class Created:
    """A new object, which gets its wanted counts at once."""


@dataclass(frozen=True)
class Adopted:
    """An existing object that the operator sees for the first time; the counts of its spec stay in force."""

    stored: Snapshot


@dataclass(frozen=True)
class Kept:
    """The request carries the operator's annotations, as an ordinary update does; they stay in force."""

    active: Active


@dataclass(frozen=True)
class Replaced:
    """The request lacks annotations that the stored object has, as after ``kubectl replace``; they are restored."""

    active: Active


@dataclass(frozen=True)
class Resized:
    """The worker pods now hold another number of ranks, so the pods for the active counts are computed again."""

    counts: Counts


@dataclass(frozen=True)
class MadeByKubeRay:
    """A RayCluster that a RayService made and that the operator has sized; its annotations are right as they are."""


@dataclass(frozen=True)
class NotYetSized:
    """A RayCluster that a RayService made and that the operator has not sized; nothing is applied to it."""


Case = Created | Adopted | Kept | Replaced | Resized | MadeByKubeRay | NotYetSized


def case_of(new: Snapshot, old: Snapshot | None) -> Case:
    """Return which case an incoming object is; ``old`` is the stored object, None at creation."""
    assert new.group is not None
    if new.kind == names.RAY_CLUSTER and not new.standalone:
        return MadeByKubeRay() if desired.active(new) else NotYetSized()
    # Annotations of the time before an object was managed are out of date.
    given = desired.active(new) if old is None or old.managed else None
    stored = desired.active(old) if old is not None and old.managed else None
    active = given or stored
    if active is None:
        return Created() if old is None else Adopted(old)
    if old is not None and old.group is not None and old.group.ranks_per_pod != new.group.ranks_per_pod:
        return Resized(active.counts)
    return Kept(active) if given else Replaced(active)


def operator_annotations(case: Case, new: Snapshot) -> dict[str, str]:
    """Return the operator's annotations that the incoming object must have in this case."""
    assert new.group is not None
    match case:
        case Created():
            return _annotations_at_creation(new)
        case Adopted(stored):
            return annotations_at_adoption(new, stored)
        case Kept(active) | Replaced(active):
            need = active.counts.pods(new.group.ranks_per_pod)
            return active_annotations(Active(active.counts, max(need, active.pods)))
        case Resized(counts):
            return active_annotations(Active(counts, counts.pods(new.group.ranks_per_pod)))
        case MadeByKubeRay() | NotYetSized():
            return {}


def mutate(new: Snapshot, old: Snapshot | None) -> Patch:
    """Return the JSON patch that makes an incoming object's spec agree with the operator's annotations.

    ``old`` is the stored object, None at creation.
    """
    if not new.managed or new.deleting or new.group is None or not desired.readable(new):
        return []
    case = case_of(new, old)
    if isinstance(case, NotYetSized):
        return []
    due = operator_annotations(case, new)
    changes = {key: value for key, value in due.items() if new.annotations.get(key) != value}
    try:
        return annotate(new, changes) + drift(annotated(new, due), old)
    except (RefusedError, ServeConfigError):
        return []  # the validating webhook refuses the request and tells why


def drift(obj: Snapshot, old: Snapshot | None = None) -> Patch:
    """Return the JSON patch that makes an object's spec agree with the operator's annotations on it.

    ``old`` is the state before; it tells which list of workersToDelete was the operator's.
    """
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
    fields = {
        "replicas": obj.group.replicas,
        "minReplicas": obj.group.minimum,
        "maxReplicas": obj.group.maximum,
    }
    patch += [
        {"op": "add", "path": f"{obj.group.path}/{field}", "value": pods}
        for field, value in fields.items()
        if value != pods
    ]
    if obj.kind == names.RAY_CLUSTER:
        patch += _workers_to_delete(obj, old, leaving)
    return patch


def surplus_noted(obj: Snapshot) -> dict[str, str]:
    """Return the annotation that takes note of worker pods which somebody else asked for on a RayCluster.

    Such pods leave one by one on proof, as after any growth that is taken back. If the spec were lowered at once,
    KubeRay would choose the pods that it deletes.
    """
    noted = whole_number(obj.annotations.get(names.ACTIVE_PODS))
    if obj.kind != names.RAY_CLUSTER or obj.group is None or obj.autoscaling or noted is None:
        return {}
    leaving = _leaving(obj)
    # Pods that the annotation names and the spec does not are still among the spec's replicas.
    asked = obj.group.pods_asked + (len(leaving) if obj.group.workers_to_delete == leaving else 0)
    return {names.ACTIVE_PODS: str(asked)} if asked > noted else {}


def configured(obj: Snapshot, active: Active) -> str:
    """Return the object's serveConfigV2 with the active counts; if it has none, one rendered from the defaults.

    Raises:
        RefusedError: it has none, and its worker pods are too small for the defaults.
    """
    assert obj.group is not None
    counts = active.counts
    if obj.serve_config:
        return _with_counts(obj.serve_config, counts, active.pods)
    return _with_counts(_rendered(counts, obj.group, desired.attention_heads(obj)), counts, active.pods)


def validate(new: Snapshot, old: Snapshot | None) -> None:
    """Refuse an incoming object that is wrong. Only what the request changes is judged.

    Raises:
        RefusedError: with the field, what was found, what is allowed and the remedy.
    """
    if not new.managed or new.deleting or new.owner:
        return  # KubeRay copies a RayService's annotations to its RayCluster, where nobody reads them
    if _changed(new, old, names.TOTAL_WORKERS, names.GANGS, names.DECLARED):
        try:
            desired.wanted(new)
        except BadCountError as error:
            raise RefusedError(str(error)) from None
    if new.serve_config and (old is None or not old.managed or _text_changed(old.serve_config, new.serve_config)):
        problems = check_serve_config(new.serve_config, Pods(new.group.cpus, new.group.gpus) if new.group else None)
        if problems:
            raise RefusedError("spec.serveConfigV2: " + "; ".join(map(str, problems)))
        try:
            _with_counts(new.serve_config, Counts(1, 1), 1)
        except ServeConfigError as error:
            raise RefusedError(f"spec.serveConfigV2: {error}") from None
    if not new.serve_config and new.kind == names.RAY_SERVICE and new.group and _changed(new, old, names.ACTIVE_PODS):
        configured(new, desired.active(new) or Active(desired.wanted(new), 1))


def annotate(obj: Snapshot, changes: Mapping[str, str | None]) -> Patch:
    """Return the JSON patch that sets annotations, and removes those whose value is None."""
    if not changes:
        return []
    patch: Patch = []
    if not obj.has_annotations:
        patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    for key, value in changes.items():
        path = f"/metadata/annotations/{key.replace('/', '~1')}"
        if value is not None:
            patch.append({"op": "add", "path": path, "value": value})
        elif key in obj.annotations:
            patch.append({"op": "remove", "path": path})
    return patch


def annotated(obj: Snapshot, changes: Mapping[str, str | None]) -> Snapshot:
    """Return the object with ``changes`` made to its annotations."""
    merged = {**obj.annotations, **changes}
    return replace(obj, annotations={key: value for key, value in merged.items() if value is not None})


def active_annotations(active: Active) -> dict[str, str]:
    """Return the annotations that record what is active."""
    return {
        names.ACTIVE_WORKERS: str(active.counts.total_workers),
        names.ACTIVE_GANGS: str(active.counts.gangs),
        names.ACTIVE_PODS: str(active.pods),
    }


def annotations_at_adoption(new: Snapshot, stored: Snapshot) -> dict[str, str]:
    """Return the annotations of an object that the operator sees for the first time, by the counts of ``stored``."""
    assert new.group is not None
    found = desired.found(stored)
    replicas = stored.group.replicas if stored.group is not None else None
    pods = max(found.pods(new.group.ranks_per_pod), replicas or 0)
    return _adopted_counts(new, found) | active_annotations(Active(found, pods))


def _annotations_at_creation(new: Snapshot) -> dict[str, str]:
    assert new.group is not None
    counts = desired.found(new)
    adopted = _adopted_counts(new, counts)
    # The validating webhook refuses a bad count and tells why.
    with suppress(BadCountError):
        counts = desired.wanted(annotated(new, adopted))
    return adopted | active_annotations(Active(counts, counts.pods(new.group.ranks_per_pod)))


def _adopted_counts(new: Snapshot, found: Counts) -> dict[str, str]:
    """Return the annotation that keeps ``found``, unless the object already has one that tells its counts."""
    if names.DECLARED in new.annotations or names.ADOPTED in new.annotations:
        return {}
    return {names.ADOPTED: json.dumps({"totalWorkers": found.total_workers, "gangs": found.gangs}, sort_keys=True)}


def _leaving(obj: Snapshot) -> tuple[str, ...]:
    return names_in(obj.annotations.get(names.WORKERS_TO_DELETE)) if obj.kind == names.RAY_CLUSTER else ()


def _workers_to_delete(obj: Snapshot, old: Snapshot | None, leaving: tuple[str, ...]) -> Patch:
    """Return the patch that makes workersToDelete name the pods in ``leaving``.

    A list is only cleared if the operator wrote it: another author's stays.
    """
    assert obj.group is not None
    listed = obj.group.workers_to_delete
    operator_wrote_it = old is not None and _leaving(old) == listed
    if listed == leaving or not (leaving or operator_wrote_it):
        return []
    value = list(leaving)
    if not obj.group.has_scale_strategy:
        return [{"op": "add", "path": f"{obj.group.path}/scaleStrategy", "value": {"workersToDelete": value}}]
    return [{"op": "add", "path": f"{obj.group.path}/scaleStrategy/workersToDelete", "value": value}]


def _text_changed(old: str, new: str) -> bool:
    """Return True if two texts of serveConfigV2 differ in more than the counts, which the operator sets."""
    if old == new:
        return False
    try:
        return _with_counts(old, Counts(1, 1), 1) != _with_counts(new, Counts(1, 1), 1)
    except ServeConfigError:
        return True


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
