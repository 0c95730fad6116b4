"""The check of the namespace's recent warnings, leaving out those whose cause is over."""

import datetime
from collections.abc import Iterator

from wan22_doctor.facts import Json, age, name_of, short, spoken
from wan22_doctor.findings import Finding, ok, warning

RECENT_SECONDS = 600
SHOWN = 3
"""Warnings that are reported."""
_REMEDIES = {
    "FailedToUpdateServeApplications": "see the checks of serveConfigV2 and Serve",
    "FailedCreate": "see the namespace's quota and Pod Security: kubectl get quota; kubectl describe namespace",
    "BadCount": "correct the annotation that the message names",
    "NotUsable": "correct what the message names",
    "WroteSpecDirectly": "see the check of the webhook",
    "FailedMount": "see the volume, Secret or ConfigMap that the message names",
    "ProvisioningFailed": "kubectl get storageclass: the claim's class must offer its access mode",
}
_OVER_WHEN_READY = ("Unhealthy", "BackOff", "FailedScheduling", "FailedMount", "Failed", "FailedCreatePodSandBox")
"""Reasons that no longer matter once the pod that they are about is Ready."""


def events(found: tuple[Json, ...], pods: tuple[Json, ...], now: datetime.datetime) -> Iterator[Finding]:
    """Report the newest warnings, one for each kind of object and reason."""
    ready = {name_of(pod): _is_ready(pod) for pod in pods}
    recent: dict[tuple[str, str], tuple[float, Json]] = {}
    for event in found:
        about, reason = event.get("involvedObject") or {}, str(event.get("reason"))
        since = age(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"], now)
        if since > RECENT_SECONDS:
            continue
        if about.get("kind") == "Pod" and (
            about.get("name") not in ready or (ready[about["name"]] and reason in _OVER_WHEN_READY)
        ):
            continue
        key = str(about.get("kind")), reason
        if key not in recent or since < recent[key][0]:
            recent[key] = since, event
    if not recent:
        yield ok(f"no warning of the last {spoken(RECENT_SECONDS)} whose cause is not over")
    for since, event in sorted(recent.values(), key=lambda one: one[0])[:SHOWN]:
        about = event.get("involvedObject") or {}
        message = short(str(event.get("message", "")))
        yield warning(
            f"{spoken(since)} ago, {about.get('kind')} {about.get('name')}: {event.get('reason')}: {message}",
            _REMEDIES.get(str(event.get("reason")), ""),
        )


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
