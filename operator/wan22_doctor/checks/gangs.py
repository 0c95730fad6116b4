"""The checks of the gangs, of the rendezvous of their ranks, and of the operator's report about them."""

import datetime
import ipaddress
import json
from collections.abc import Iterator
from typing import Any

from wan22_operator import constants as names
from wan22_operator import desired

from app.config import APPLICATION
from app.tasks.gang_state import GangPhase
from serve_config.counts import GENERATOR
from wan22_doctor.facts import Json, Target, age, spoken
from wan22_doctor.findings import Finding, failed, ok, skipped, warning

SLOW_SECONDS = 900
"""A resize that takes longer has a fault. It is long because pods, images and models are large."""
DEAF_SECONDS = 120
"""An operator that has not reported about a new count by then does not see the object."""
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def gangs(head: Json) -> Iterator[Finding]:
    """Judge the number of ranks that each gang wants and has."""
    found = reported(head)
    if found is None:
        yield skipped("the app does not report its gangs")
        return
    wanted = _replicas(head)
    problems = list(_sizes(found))
    if wanted is not None and len(found) < wanted:
        problems.append(
            failed(
                f"{len(found)} of {wanted} gang(s) report",
                "a gang reports once its ranks have loaded the model: see Serve, the model and the pods' logs",
            )
        )
    yield from problems
    if not problems:
        nodes = {node["ip"] for gang in found for node in gang["nodes"]}
        busy = sum(bool(gang.get("task_id")) for gang in found)
        sizes = ", ".join(f"{gang['have']} of {gang['wanted']} ranks {gang['phase']}" for gang in found)
        yield ok(f"{sizes}, on {len(nodes)} node(s); {busy} at work")


def reported(head: Json) -> list[Json] | None:
    """Return the gangs that /readyz lists; None if the app does not answer, or cannot list them without Redis."""
    body = head["readyz"].get("body")
    if not isinstance(body, dict) or not isinstance(body.get("gangs"), list):
        return None
    unknown = not body["gangs"] and "Redis" in str(body.get("message"))
    return None if unknown else list(body["gangs"])


def _replicas(head: Json) -> int | None:
    try:
        deployments = head["applications"]["body"]["applications"][APPLICATION]["deployments"]
        return int(deployments[GENERATOR]["target_num_replicas"])
    except (KeyError, TypeError, ValueError):
        return None


def _sizes(found: list[Json]) -> Iterator[Finding]:
    for gang in found:
        text = f"a gang has {gang['have']} of {gang['wanted']} ranks, {gang['phase']}: {gang['message']}".rstrip(": ")
        if gang["phase"] == GangPhase.REFUSED:
            yield failed(text, f"ask for another count: kubectl annotate --overwrite ... {names.TOTAL_WORKERS}=N")
        elif gang["phase"] == GangPhase.DEGRADED:
            yield failed(text, "the gang grows when there is room: see the checks of Ray and the pods")
        elif gang["phase"] == GangPhase.STARTING and not gang["have"]:
            yield failed(text, "without ranks no task runs: see the check of Ray and the pods' logs")
        elif gang["have"] != gang["wanted"]:
            yield warning(text, "the gang is being resized; if it stays so, see the check of Ray")


def rendezvous(head: Json) -> Iterator[Finding]:
    """Judge the five variables of every rank: different RANKs, the same WORLD_SIZE, rank 0's address and one port."""
    found = [gang for gang in reported(head) or [] if gang["have"]]
    if not found:
        yield skipped("no gang has ranks")
        return
    problems = [one for gang in found for one in _gang(gang)]
    for text in problems:
        yield failed(text, "delete the pod that holds the gang's leader; the gang then forms again")
    if not problems:
        first = _environments(found[0])
        address = f"{first[0][1].get('MASTER_ADDR')}:{first[0][1].get('MASTER_PORT')}" if first else "unknown"
        ranks = "; ".join(
            f"RANK 0-{gang['have'] - 1}, WORLD_SIZE {gang['have']}" if gang["have"] > 1 else "RANK 0, WORLD_SIZE 1"
            for gang in found
        )
        yield ok(f"{ranks}, MASTER_ADDR and MASTER_PORT {address} (rank 0's node)")


def _environments(gang: Json) -> list[tuple[str, dict[str, Any]]]:
    """Return each rank's node IP and variables, in the order of the numbers that the leader reports."""
    listed = [(node["ip"], rank) for node in gang["nodes"] for rank in node["ranks"] if isinstance(rank, dict)]
    listed.sort(key=lambda one: int(one[1]["rank"]))
    return [(ip, dict(rank.get("environment") or {})) for ip, rank in listed]


def _gang(gang: Json) -> Iterator[str]:
    name, found = f"gang {gang['id']}", _environments(gang)
    if len(found) != gang["have"]:
        yield f"{name} has {gang['have']} ranks and lists {len(found)}"
        return
    for number, (_, variables) in enumerate(found):
        missing = [variable for variable in VARIABLES if not str(variables.get(variable) or "")]
        if missing:
            yield f"{name}: rank {number} has no {', '.join(missing)}"
            return
    ranks = [variables["RANK"] for _, variables in found]
    if sorted(map(int, ranks)) != list(range(len(found))):
        yield f"{name}: RANK is {', '.join(map(str, ranks))}, need each of 0 to {len(found) - 1} once"
    worlds = {str(variables["WORLD_SIZE"]) for _, variables in found}
    if worlds != {str(len(found))}:
        yield f"{name}: WORLD_SIZE is {', '.join(sorted(worlds))}, need {len(found)} everywhere"
    ports = {(str(variables["MASTER_ADDR"]), str(variables["MASTER_PORT"])) for _, variables in found}
    if len(ports) > 1:
        yield f"{name}: ranks meet at different addresses: {', '.join(':'.join(one) for one in sorted(ports))}"
    address, home = str(found[0][1]["MASTER_ADDR"]), found[0][0]
    if address != home:
        yield f"{name}: MASTER_ADDR is {address}, need {home}, the node of rank 0"
    elif len({ip for ip, _ in found}) > 1 and _is_loopback(address):
        yield f"{name}: MASTER_ADDR is {address}, which other nodes cannot reach"
    for ip in sorted({ip for ip, _ in found}):
        local = sorted(int(variables["LOCAL_RANK"]) for at, variables in found if at == ip)
        if local != list(range(len(local))):
            yield f"{name}: LOCAL_RANK on {ip} is {', '.join(map(str, local))}, need 0 to {len(local) - 1}"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def status(target: Target, head: Json, now: datetime.datetime) -> Iterator[Finding]:
    """Judge the operator's report against what the gangs report."""
    text = target.obj.annotations.get(names.STATUS)
    if not target.obj.managed:
        yield skipped("the object is not managed")
        return
    try:
        value = json.loads(text or "")
        phase, wanted, have, message = value["phase"], value["wanted"], value["have"], value["message"]
    except (ValueError, KeyError, TypeError):
        yield failed(f"annotation {names.STATUS}: found {text!r}", "the operator writes it: see whether it runs")
        return
    report = f"{phase}, wanted {_spoken(wanted)}, have {_spoken(have)}"
    found = reported(head)
    lasts = age(value.get("since"), now)
    if phase not in ("refused", "failing") and (deaf := _unheard(target, wanted, now)):
        yield deaf
        return
    if phase in ("refused", "suspended", "failing"):
        yield failed(f"the operator reports: {report}: {message}", "correct what the message names")
    elif found is not None and have and _spoken(have) != (real := _spoken(_counts(found))) and phase == "ready":
        yield failed(
            f"the operator reports {report}, the gangs {real}", "see whether the operator runs and reaches the head"
        )
    elif phase != "ready":
        judged = failed if lasts > SLOW_SECONDS else warning
        yield judged(
            f"the operator reports for {spoken(lasts)}: {report}: {message}",
            "the operator works on it; if this stays, remove what the message names, or ask for the counts that the "
            f"gangs have: kubectl annotate --overwrite {target.resource} {names.TOTAL_WORKERS}=N",
        )
    else:
        yield ok(f"the operator reports {report}, and so do the gangs")


def _unheard(target: Target, reported: Any, now: datetime.datetime) -> Finding | None:
    """Return a finding if the operator has not taken note of the counts that the object asks for."""
    try:
        asked = desired.wanted(target.obj)
    except desired.BadCountError:
        return None
    counts = {"totalWorkers": asked.total_workers, "gangs": asked.gangs}
    if _spoken(counts) == _spoken(reported):
        return None
    since = age(_asked(target.body), now)
    return (failed if since > DEAF_SECONDS else warning)(
        f"the object asks for {_spoken(counts)} for {spoken(since)}, and the operator's report is about "
        f"{_spoken(reported)}",
        "see the operator's log, whether it sees its objects: kubectl logs -l app.kubernetes.io/component=operator",
    )


def _asked(body: Json) -> str:
    """Return the time at which the annotations that ask for counts were last written, by the managed fields."""
    times = [""]
    for one in body["metadata"].get("managedFields") or ():
        fields = ((one.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {}
        if any(f"f:{key}" in fields for key in (names.TOTAL_WORKERS, names.GANGS, names.DECLARED)):
            times.append(str(one.get("time") or ""))
    return max(times)


def _counts(found: list[Json]) -> dict[str, int]:
    return {"gangs": len(found), "totalWorkers": min((int(gang["have"]) for gang in found), default=0)}


def _spoken(counts: Any) -> str:
    return f"{counts['gangs']} x {counts['totalWorkers']}" if counts else "unknown"
