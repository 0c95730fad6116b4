"""The checks: pure functions of the facts, in the order of the report."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from wan22_doctor.checks import (
    config,
    devices,
    events,
    gangs,
    kuberay,
    objects,
    operator,
    pods,
    redis,
    request,
    serve,
    storage,
)
from wan22_doctor.facts import Facts
from wan22_doctor.findings import Cause, Finding, NotSeen, Result

MOST = 5
"""Findings of one check that are listed; the rest are counted."""


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    judge: Callable[..., Iterable[Finding]]
    """Called with the facts that ``needs`` names, in that order."""
    needs: str
    """Fields of ``Facts``. If one is missing the check is skipped, unless its name has a question mark."""


CHECKS = (
    Check("KubeRay", kuberay.kuberay, "kuberay"),
    Check("cluster", objects.ray_object, "target now"),
    Check("pods", pods.ray, "target pods now"),
    Check("events", events.events, "events pods now"),
    Check("serveConfigV2", config.text, "target serve_config"),
    Check("import path", config.application, "application"),
    Check("resources", config.resources, "target serve_config"),
    Check("devices", devices.devices, "target serve_config? workers"),
    Check("model", storage.model, "serve_config? workers"),
    Check("storage", storage.storage, "target pods workers"),
    Check("Ray", serve.ray, "target head"),
    Check("Redis", redis.reach, "pods now head? workers?"),
    Check("Redis on disk", redis.persistence, "head"),
    Check("Serve", serve.serve, "head serve_config?"),
    Check("API", serve.api, "target head endpoints?"),
    Check("gangs", gangs.gangs, "head"),
    Check("rendezvous", gangs.rendezvous, "head"),
    Check("operator", operator.operator, "operator now"),
    Check("webhook", operator.webhook, "webhook now"),
    Check("status", gangs.status, "target head now"),
    Check("request", request.request, "request head"),
)


def judge(facts: Facts) -> list[Finding]:
    """Return the findings of all checks. A missing fact is reported once; the other checks that need it are skipped."""
    findings: list[Finding] = []
    reported: set[str] = set()
    for check in CHECKS:
        found = list(_findings(check, facts, reported))
        if len(found) > MOST:
            # A fault of the image appears in every pod.
            worst = Result.FAILED if any(one.result == Result.FAILED for one in found[MOST:]) else Result.WARNING
            found[MOST:] = [Finding(worst, f"and {len(found) - MOST} more")]
        findings += [replace(finding, check=check.name) for finding in found]
    return findings


def _findings(check: Check, facts: Facts, reported: set[str]) -> Iterator[Finding]:
    values = [(need, getattr(facts, need.rstrip("?"))) for need in check.needs.split()]
    missing = [value for need, value in values if isinstance(value, NotSeen) and not need.endswith("?")]
    if not missing:
        yield from check.judge(*(value for _, value in values))
        return
    reason = missing[0]
    first = reason.why not in reported
    reported.add(reason.why)
    if reason.cause == Cause.FAULT and first:
        yield Finding(Result.FAILED, reason.why, reason.remedy)
    else:
        remedy = reason.remedy if first else ""
        yield Finding(Result.SKIPPED, reason.why, remedy, blind=reason.cause == Cause.BLIND)
