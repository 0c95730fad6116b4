"""The checks of Ray's nodes, Serve's applications and the app, as the head pod sees them."""

from collections.abc import Iterator
from typing import Any

from app.config import APPLICATION
from serve_config import ServeConfigError, read_counts
from serve_config.counts import API, GENERATOR
from wan22_doctor.facts import Json, Target, short
from wan22_doctor.findings import Finding, NotSeen, Seen, failed, ok, warning

_CHANGING = ("DEPLOYING", "UPDATING", "UPSCALING", "DOWNSCALING", "NOT_STARTED", "DELETING")


def ray(target: Target, head: Json) -> Iterator[Finding]:
    """Judge Ray's nodes, and the placement groups that do not fit on them."""
    rows = rows_of(head["nodes"])
    if rows is None:
        yield unanswered(head["nodes"], "the dashboard")
        return
    alive = [row for row in rows if row["state"] == "ALIVE"]
    workers = [row for row in alive if not row["is_head_node"]]
    group = target.obj.group
    wanted, gpus = (group.replicas or 0, group.gpus) if group else (0, 0)
    problems = []
    if len(workers) < wanted:
        problems.append(
            failed(
                f"{len(workers)} of {wanted} worker pods have joined Ray",
                "see the pods; their logs have the reason: kubectl logs -l ray.io/node-type=worker --tail 20",
            )
        )
    for row in workers:
        counted = (row.get("resources_total") or {}).get("GPU", 0)
        if gpus and counted < gpus:
            problems.append(
                failed(
                    f"Ray counts {counted:g} GPUs on {row['node_ip']}, its pod has {gpus}",
                    "remove num-gpus from worker.rayStartParams",
                )
            )
    for row in rows_of(head["waiting"]) or []:
        bundles = ", ".join(str(bundle.get("unit_resources")) for bundle in row.get("bundles") or ())
        problems.append(
            warning(
                f"a rank waits for room: placement group of {bundles}",
                "add more worker pods, or lower the number of ranks",
            )
        )
    yield from problems
    if not problems:
        version = head["versions"].get("ray") or "of unknown version"
        total = {key: sum((row.get("resources_total") or {}).get(key, 0) for row in alive) for key in ("CPU", "GPU")}
        yield ok(f"Ray {version}: head and {len(workers)} workers alive, {total['CPU']:g} CPUs, {total['GPU']:g} GPUs")


def serve(head: Json, serve_config: Seen[str]) -> Iterator[Finding]:
    """Judge the states of the application and its deployments, and whether Serve has the newest configuration."""
    found = head["applications"]
    body = found.get("body")
    if found.get("status") != 200 or not isinstance(body, dict):
        yield unanswered(found, "the dashboard's Serve API")
        return
    applications: dict[str, Any] = body.get("applications") or {}
    if not applications:
        yield failed(
            "Serve has no application",
            "see the events for the dashboard's answer to serveConfigV2; to deploy by hand, in the head pod: "
            f"serve run --name {APPLICATION} app.serve_app:app",
        )
        return
    problems = [one for name, details in applications.items() for one in _application(name, details)]
    if APPLICATION not in applications:
        listed = ", ".join(applications)
        problems.append(
            failed(f"no application {APPLICATION}; there is {listed}", f"name it {APPLICATION}, at route /")
        )
    elif not isinstance(serve_config, NotSeen):
        problems += _newest(applications[APPLICATION], serve_config)
    yield from problems
    if not problems:
        yield ok("; ".join(_states(name, details) for name, details in applications.items()))


def _application(name: str, details: Json) -> Iterator[Finding]:
    status, message = details.get("status"), short(details.get("message", ""))
    deployments = details.get("deployments") or {}
    bad = {key: one for key, one in deployments.items() if one.get("status") not in ("HEALTHY", *_CHANGING)}
    changing = {key: one for key, one in deployments.items() if one.get("status") in _CHANGING}
    for key, one in (bad or changing).items():
        text = f"{name}: {key} is {one.get('status')}: {short(one.get('message', ''))}".rstrip(": ")
        yield (failed if bad else warning)(
            text, "see kubectl logs of the pod that the message names, or the dashboard's Serve page"
        )
    if status in _CHANGING and not bad and not changing:
        yield warning(f"{name} is {status}: {message}".rstrip(": "), "")
    elif status not in ("RUNNING", *_CHANGING) and not bad:
        remedy = "correct what the message says; after DEPLOY_FAILED Serve tries again only when serveConfigV2 changes"
        yield failed(f"{name} is {status}: {message}".rstrip(": "), remedy)


def _newest(details: Json, serve_config: str) -> Iterator[Finding]:
    deployed = {one["name"]: one for one in (details.get("deployed_app_config") or {}).get("deployments") or ()}
    if not deployed:
        return
    try:
        asked = read_counts(serve_config)
    except ServeConfigError:
        return
    generator, api = deployed.get(GENERATOR, {}), deployed.get(API, {})
    has = (
        (generator.get("user_config") or {}).get("total_workers"),
        generator.get("num_replicas"),
        api.get("num_replicas"),
    )
    wants = (asked.total_workers, asked.gangs, asked.pods)
    if has != wants:
        yield failed(
            "Serve has another configuration than serveConfigV2 (total_workers, gangs, APIEntrypoints): "
            f"{_listed(has)}, not {_listed(wants)}",
            "KubeRay sends it to Serve: see the events and whether KubeRay's operator runs",
        )


def _listed(values: tuple[object, ...]) -> str:
    return ", ".join(map(str, values))


def _states(name: str, details: Json) -> str:
    parts = []
    for key, one in (details.get("deployments") or {}).items():
        running = [replica for replica in one.get("replicas") or () if replica.get("state") == "RUNNING"]
        count = f" x {len(running)}" if one.get("replicas") else ""
        parts.append(f"{key} {one.get('status')}{count}")
    return f"{name} {details.get('status')}: {', '.join(parts)}"


def api(target: Target, head: Json, endpoints: Seen[int]) -> Iterator[Finding]:
    """Judge the Service that clients call, the pods behind it, and the app's /readyz."""
    found, service = head["readyz"], target.api_service
    if endpoints == 0:
        yield failed(
            f"Service {service} has no ready pod behind it",
            "a pod is ready once Ray and its APIEntrypoint are: see the pods and Serve",
        )
        return
    body = found.get("body")
    if not isinstance(body, dict) or "gangs" not in body:
        yield unanswered(found, f"{found['url']} (the app)")
        return
    behind = f" ({endpoints} pods)" if isinstance(endpoints, int) else ""
    text = f"{found['url']}{behind} answered {found['status']} in {found['seconds'] * 1000:.0f} ms"
    if body.get("ready"):
        yield ok(f"{text}: ready")
    else:
        yield failed(f"{text}: not ready: {body.get('message')}", _remedy(str(body.get("message"))))


def _remedy(message: str) -> str:
    return "see the check of Redis" if "Redis" in message else "see the checks of gangs and Serve"


def unanswered(found: Json, what: str) -> Finding:
    """Return the finding for a request from the head pod that failed or had an unexpected answer."""
    if "error" in found:
        return failed(f"{what} does not answer: {found['error']}", f"tried {found['url']} in the head pod; see its log")
    if found.get("status") == 401 or found.get("status") == 403:
        return failed(
            f"{what} answered {found['status']}: the head pod's token is not the one that Ray runs with",
            "after a change of the Secret of ray.auth, delete the pods, so that KubeRay makes new ones",
        )
    return failed(f"{what} answered {found.get('status')}: {short(str(found.get('body')))}", f"see {found['url']}")


def rows_of(found: Json) -> list[Json] | None:
    """Return the rows of an answer of Ray's state API; None if the answer is something else."""
    try:
        rows = found["body"]["data"]["result"]["result"]
    except (KeyError, TypeError):
        return None
    return list(rows)
