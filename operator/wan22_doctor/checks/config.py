"""Checks of serveConfigV2: its text, its import path in the image, and its counts against pods, GPUs and CPUs."""

from collections.abc import Iterator
from typing import Any

from wan22_operator import constants as names
from wan22_operator import desired
from wan22_operator.snapshots import read

from app.config import AppArgs
from serve_config import Pods, ServeConfigError, check_serve_config, read_counts
from serve_config.document import compose, plain
from serve_config.problems import written
from serve_config.resources import misfits
from wan22_doctor.facts import Json, Target, name_of
from wan22_doctor.findings import Finding, failed, ok, warning

SHOWN = 3
"""Problems of one text that are reported."""


def text(target: Target, serve_config: str) -> Iterator[Finding]:
    """Judge the text of serveConfigV2."""
    problems = check_serve_config(serve_config)
    for problem in problems[:SHOWN]:
        yield failed(f"serveConfigV2: {problem}", _remedy(target))
    if not problems:
        yield ok(f"valid; {_counts(serve_config)}")


def _remedy(target: Target) -> str:
    if target.body["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "Helm":
        return "correct the chart's values and run helm upgrade"
    return f"kubectl edit {target.resource}; try the text first: python -m serve_config --check FILE"


def _counts(serve_config: str) -> str:
    try:
        found = read_counts(serve_config)
    except ServeConfigError:
        return "not this project's application"
    return f"{found.gangs or 1} gang(s) of {found.total_workers} rank(s), {found.pods} APIEntrypoint(s)"


def application(found: Json) -> Iterator[Finding]:
    """Judge the result of importing the application in the head pod's image."""
    for problem in found["problems"][:SHOWN]:
        # The rest of the message is a remedy for somebody who runs the import by hand.
        yield failed(
            f"in the image: {problem.partition('; ')[0]}",
            "correct import_path, or build an image that has the module (image.repository)",
        )
    if not found["problems"]:
        yield ok("imported and built in the head pod" if found["built"] else "imported in the head pod")


def resources(target: Target, serve_config: str) -> Iterator[Finding]:
    """Judge TOTAL_WORKERS against the worker pods and their GPUs, and their CPUs against ranks plus APIEntrypoint."""
    obj = target.obj
    if obj.group is None:
        yield failed(
            f"{target.title} has no worker group {names.WORKER_GROUP}",
            f"name the group of the GPU pods {names.WORKER_GROUP}",
        )
        return
    pods = Pods(obj.group.cpus, obj.group.gpus, obj.group.replicas)
    try:
        config: Any = plain(compose(serve_config))
    except ServeConfigError:
        config = None
    if not isinstance(config, dict):
        return  # the check of the text reports why
    found = [failed(f"{written(path)}: {message}", _remedy(target)) for path, message in misfits(config, pods)]
    found += _wanted(target)
    yield from found[: 2 * SHOWN]
    if not found:
        gpus = f"{pods.gpus} GPU(s)" if pods.gpus else "no GPU"
        cpus = f"{pods.cpus:g}" if pods.cpus is not None else "unlimited"
        yield ok(
            f"{_counts(serve_config)} fit into {pods.count} worker pod(s) of {gpus} and {cpus} CPUs; {_cpus(config)}"
        )


def _cpus(config: Any) -> str:
    try:
        args = AppArgs.model_validate(config["applications"][0].get("args") or {})
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "CPUs per process unknown"
    return f"APIEntrypoint {args.api_cpus:g}, leader {args.leader_cpus:g}, rank {args.rank_cpus:g} CPUs"


def _wanted(target: Target) -> Iterator[Finding]:
    """Judge the wanted counts against the active ones, and the RayCluster's replicas against its RayService's."""
    obj = target.obj
    try:
        wanted = desired.wanted(obj)
    except desired.BadCountError as error:
        yield failed(str(error), f"kubectl annotate --overwrite {target.resource} {names.TOTAL_WORKERS}=2")
        return
    active = desired.active(obj)
    if obj.managed and active is None:
        yield failed(
            f"no annotation {names.ACTIVE_WORKERS}: the operator has not reconciled {target.title} yet",
            "see the checks of the operator and the webhook",
        )
    elif active and active.counts != wanted:
        yield warning(
            f"{wanted} wanted, {active.counts} active: a resize is under way, or waits",
            f"kubectl get {target.resource} -o jsonpath='{{.metadata.annotations.{_escaped(names.STATUS)}}}'",
        )
    serving = target.serving
    live = read(names.RAY_CLUSTER, serving).group if serving and not obj.standalone else None
    if serving and live and obj.group and live.replicas != obj.group.replicas and not obj.pending_cluster:
        yield warning(
            f"RayCluster {name_of(serving)} has {live.replicas} worker replicas, {target.title} {obj.group.replicas}",
            "the operator makes them equal: see whether it runs",
        )


def _escaped(annotation: str) -> str:
    """Return an annotation's key as a JSONPath of kubectl needs it."""
    return annotation.replace(".", "\\.")
