"""The check of the RayService or RayCluster, as KubeRay reports it."""

import datetime
from collections.abc import Iterator, Mapping

from wan22_operator import constants as names

from wan22_doctor.facts import Json, Target, age, name_of, spoken
from wan22_doctor.findings import Finding, failed, ok, warning

SLOW_SECONDS = 600
"""A cluster that still starts after this time has a fault. It is long because images and models are large."""
REACTION_SECONDS = 30
"""KubeRay reacts to a change within seconds; after this time something is wrong."""


def ray_object(target: Target, now: datetime.datetime) -> Iterator[Finding]:
    """Judge the object's conditions and those of its RayClusters."""
    found = [*_itself(target, now), *_clusters(target)]
    yield from found
    if not any(one.result != "ok" for one in found) and not target.obj.managed:
        yield warning(
            f"{target.title} has no label {names.MANAGED}, so annotations do not resize it",
            f"if they should: kubectl label {target.resource} {names.MANAGED}=true",
        )


def _itself(target: Target, now: datetime.datetime) -> Iterator[Finding]:
    meta, status = target.body["metadata"], target.body.get("status") or {}
    if deleted := meta.get("deletionTimestamp"):
        finalizers = ", ".join(meta.get("finalizers") or ()) or "none"
        yield failed(
            f"{target.title} is being deleted since {spoken(age(deleted, now))}; finalizers: {finalizers}",
            "the controller of a finalizer removes it: see whether KubeRay runs. If the namespace is being deleted, "
            "KubeRay's clean-up cannot run: remove the finalizers, see \"Uninstalling\" in the chart's README",
        )
        return
    if target.obj.suspended:
        yield warning(f"{target.title} is suspended (suspend: true)", "set suspend to false to resume it")
        return
    changed = _changed(target.body)
    if not status.get("conditions") and not status.get("observedGeneration"):
        since = age(meta.get("creationTimestamp"), now)
        report = failed if since > REACTION_SECONDS else warning
        yield report(
            f"{target.title} has no status {spoken(since)} after it was made: KubeRay does not act on it",
            "see whether KubeRay's operator runs and watches this namespace (its flag -watch-namespace)",
        )
        return
    generation, seen = int(meta.get("generation") or 0), int(status.get("observedGeneration") or 0)
    if seen < generation and age(changed, now) > REACTION_SECONDS:
        yield failed(
            f"KubeRay has not carried out the change of {spoken(age(changed, now))} ago (generation {generation}, it "
            f"has done {seen})",
            f"see the events of {target.resource}, and whether KubeRay's operator runs",
        )
    if target.obj.kind == names.RAY_CLUSTER:
        yield from _ray_cluster(target, now)
    else:
        yield from _ray_service(target, now)


def _changed(body: Json) -> str:
    """Return the time at which the spec was last written, by its managed fields."""
    fields = body["metadata"].get("managedFields") or ()
    times = [
        one.get("time", "") for one in fields if not one.get("subresource") and "f:spec" in (one.get("fieldsV1") or {})
    ]
    return max(times, default=str(body["metadata"].get("creationTimestamp") or ""))


def _ray_service(target: Target, now: datetime.datetime) -> Iterator[Finding]:
    conditions = _conditions(target.body)
    ready, obj = conditions.get("Ready", {}), target.obj
    reason, message = ready.get("reason", ""), ready.get("message", "")
    endpoints = int((target.body.get("status") or {}).get("numServeEndpoints") or 0)
    pending = f"; RayCluster {obj.pending_cluster} is starting to replace it" if obj.pending_cluster else ""
    if ready.get("status") == "True":
        text = f"{target.title} is Ready: {endpoints} pods serve, RayCluster {obj.active_cluster}"
        yield warning(f"{text}{pending}: an upgrade is under way") if pending else ok(text)
        return
    since = age(ready.get("lastTransitionTime") or target.body["metadata"].get("creationTimestamp"), now)
    text = f"{target.title} is not Ready for {spoken(since)}: {reason} {message}".rstrip()
    if reason == "ValidationFailed":
        yield failed(text, "correct the spec as KubeRay's message says")
    elif reason == "InitializingTimeout":
        yield failed(text, "KubeRay has given up: delete the RayService and create it again")
    elif reason in ("Initializing", "") and since < SLOW_SECONDS:
        yield warning(f"{text}; it is still starting", f"kubectl get {target.resource} -w")
    else:
        yield failed(text, "the checks below report what is missing")


def _ray_cluster(target: Target, now: datetime.datetime) -> Iterator[Finding]:
    conditions = _conditions(target.body)
    head = conditions.get("HeadPodReady", {})
    status = target.body.get("status") or {}
    workers = f"{status.get('readyWorkerReplicas', 0)} of {status.get('desiredWorkerReplicas', 0)} workers ready"
    if head.get("status") == "True":
        yield ok(f"{target.title}: head ready, {workers}")
        return
    since = age(head.get("lastTransitionTime") or target.body["metadata"].get("creationTimestamp"), now)
    text = f"{target.title}: the head is not ready for {spoken(since)}: {head.get('message', '')}".rstrip(": ")
    yield (warning if since < SLOW_SECONDS else failed)(text, "the checks below report what is missing")


def _clusters(target: Target) -> Iterator[Finding]:
    for cluster in target.clusters:
        failure = _conditions(cluster).get("ReplicaFailure", {})
        if failure.get("status") == "True":
            yield failed(
                f"RayCluster {name_of(cluster)} cannot make its pods: {failure.get('reason')} {failure.get('message')}",
                "see the namespace's quota, limits and Pod Security: kubectl describe namespace, kubectl get quota",
            )


def _conditions(body: Json) -> dict[str, Mapping[str, str]]:
    return {one["type"]: one for one in (body.get("status") or {}).get("conditions") or ()}
