"""The checks of this project's operator: its pods, its Lease, its webhooks and their certificate."""

import base64
import datetime
from collections.abc import Iterator

from cryptography import x509

from wan22_doctor.facts import Json, Operator, Webhook, age, name_of, spoken
from wan22_doctor.findings import Cause, Finding, NotSeen, failed, ok, skipped, warning

DRY_RUNS = 4
"""Dry runs of a wrong annotation."""
RENEWED_DAYS = 20
"""Days that a certificate should always be valid for: the operator renews it 30 days before its end."""


def operator(found: Operator, now: datetime.datetime) -> Iterator[Finding]:
    """Judge the Deployment and the Lease."""
    deployment = found.deployment
    space, name = deployment["metadata"]["namespace"], name_of(deployment)
    want = int(deployment["spec"].get("replicas") or 0)
    have = int((deployment.get("status") or {}).get("availableReplicas") or 0)
    image = deployment["spec"]["template"]["spec"]["containers"][0]["image"]
    if not want:
        remedy = f"kubectl -n {space} scale deployment/{name} --replicas=2"
        yield failed(f"Deployment {space}/{name} is scaled to 0", remedy)
        return
    look = f"kubectl -n {space} describe pods -l app.kubernetes.io/component=operator"
    if not have:
        yield failed(f"Deployment {space}/{name} ({image}): 0 of {want} pods available", look)
        return
    lease = _lease(found, now)
    if have < want:
        yield warning(f"Deployment {space}/{name} ({image}): {have} of {want} pods available", look)
    if lease.result != "ok":
        yield lease
    elif have >= want:
        yield ok(f"{space}/{name}: {have} of {want} pods available; {lease.evidence}")


def _lease(found: Operator, now: datetime.datetime) -> Finding:
    lease = found.lease
    if isinstance(lease, NotSeen):
        return ok(f"its Lease cannot be seen ({lease.why})")
    log = "see its log: kubectl logs -l app.kubernetes.io/component=operator"
    if lease is None:
        return failed("its Lease does not exist, so no replica reconciles", f"the operator makes it: {log}")
    spec = lease.get("spec") or {}
    holder, since = spec.get("holderIdentity"), age(spec.get("renewTime"), now)
    if not holder:
        return failed(f"nobody holds the Lease {name_of(lease)}, so no replica reconciles", log)
    # The clocks of nodes may differ by some seconds.
    if since > 3 * float(spec.get("leaseDurationSeconds") or 10) + 15:
        return failed(f"{holder} has not renewed the Lease {name_of(lease)} for {spoken(since)}", log)
    return ok(f"{holder} leads; it renewed its Lease {spoken(since)} ago")


def webhook(found: Webhook, now: datetime.datetime) -> Iterator[Finding]:
    """Judge the configurations' caBundle, the certificate, the Service, and a dry run that must be refused."""
    problems = [*_configurations(found), *_certificate(found, now)]
    if found.endpoints == 0:
        problems.append(failed("the webhook's Service has no ready pod behind it", "see the operator's pods"))
    if not problems and found.refusal == "":
        problems.append(
            failed(
                "a dry run of a wrong annotation was let pass: the API server does not reach the webhook",
                "the API server calls the operator's pods on port 9443: see firewalls and NetworkPolicies between them",
            )
        )
    elif not problems and found.missed:
        problems.append(_misses(found.missed))
    yield from problems
    if problems:
        return
    missing = [
        f"{what}: {one.why}"
        for what, one in (("caBundle", found.configurations), ("certificate", found.certificate))
        if isinstance(one, NotSeen)
    ]
    if isinstance(found.refusal, NotSeen):
        text = "; ".join([f"no dry run was made ({found.refusal.why})", *missing])
        if found.refusal.cause == Cause.BLIND and len(missing) == 2:
            yield Finding(skipped("").result, text, found.refusal.remedy, blind=True)
            return
        yield ok(text)
    else:
        days = _days_left(found, now)
        valid = f"; certificate valid for {days} d" if days is not None else ""
        yield ok("; ".join([f"it refused a wrong annotation in a dry run{valid}", *missing]))


def _misses(missed: int) -> Finding:
    """Judge a webhook that answered some of the dry runs: what it misses is not checked and not applied at once."""
    text = f"{missed} of {DRY_RUNS} dry runs of a wrong annotation were let pass: some calls miss the webhook"
    remedy = "see whether each of the operator's pods is reached from the API server on port 9443, and has enough CPU"
    return (failed if 2 * missed > DRY_RUNS else warning)(text, remedy)


def _configurations(found: Webhook) -> Iterator[Finding]:
    if isinstance(found.configurations, NotSeen):
        return
    for kind, body in found.configurations.items():
        if body is None:
            yield failed(f"the {kind}WebhookConfiguration does not exist", "the chart creates it: helm upgrade")
            continue
        empty = [hook["name"] for hook in body.get("webhooks") or () if not hook["clientConfig"].get("caBundle")]
        if empty:
            yield failed(
                f"{kind}WebhookConfiguration {name_of(body)} has no caBundle, so the API server trusts no webhook",
                "the operator fills it in: see its log and its ClusterRole",
            )


def _certificate(found: Webhook, now: datetime.datetime) -> Iterator[Finding]:
    if isinstance(found.certificate, NotSeen):
        return
    server, authority = (_read(found.certificate, key) for key in ("tls.crt", "ca.crt"))
    if server is None or authority is None:
        yield failed("the webhook's Secret holds no certificate", "the operator creates it: see its log and its Role")
        return
    days = (server.not_valid_after_utc - now).days
    if days < 0:
        yield failed(f"the webhook's certificate ended {-days} d ago", "restart the operator, which renews it")
    elif days < RENEWED_DAYS:
        yield warning(f"the webhook's certificate ends in {days} d and was not renewed", "see the operator's log")
    if isinstance(found.configurations, NotSeen):
        return
    for kind, body in found.configurations.items():
        for hook in (body or {}).get("webhooks") or ():
            bundle = hook["clientConfig"].get("caBundle")
            if bundle and not _trusts(bundle, server):
                yield failed(
                    f"the caBundle of {kind} webhook {hook['name']} does not fit the operator's certificate",
                    "the operator corrects it within 30 s: see its log and its ClusterRole",
                )


def _trusts(bundle: str, server: x509.Certificate) -> bool:
    try:
        authorities = x509.load_pem_x509_certificates(base64.b64decode(bundle))
    except ValueError:
        return False
    return any(authority.subject == server.issuer and _signed(server, authority) for authority in authorities)


def _signed(server: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        server.verify_directly_issued_by(authority)
    except Exception:
        return False
    return True


def _days_left(found: Webhook, now: datetime.datetime) -> int | None:
    server = None if isinstance(found.certificate, NotSeen) else _read(found.certificate, "tls.crt")
    return (server.not_valid_after_utc - now).days if server else None


def _read(secret: Json | None, key: str) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(base64.b64decode(((secret or {}).get("data") or {})[key]))
    except (KeyError, ValueError):
        return None
