"""Whether what serveConfigV2 asks for fits into the worker pods."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.config import IMPORT_PATH, AppArgs, UserConfig
from app.plan import worker_pods
from serve_config.counts import API, GENERATOR
from serve_config.document import KeyPath
from serve_config.values import pod_problem

Found = Iterator[tuple[KeyPath, str]]


@dataclass(frozen=True)
class Pods:
    """The worker pods of a cluster; None where it is not known."""

    cpus: float | None = None
    """CPU limit of one."""
    gpus: int | None = None
    """GPUs of one."""
    count: int | None = None


def misfits(config: dict[str, Any], pods: Pods) -> Found:
    """Yield what in a serveConfigV2 cannot fit into ``pods``."""
    applications = config.get("applications")
    for index, application in enumerate(applications if isinstance(applications, list) else ()):
        if not isinstance(application, dict):
            continue
        path: KeyPath = ("applications", index)
        deployments = application.get("deployments")
        entries = [one if isinstance(one, dict) else {} for one in deployments] if isinstance(deployments, list) else []
        for number, deployment in enumerate(entries):
            yield from _replica((*path, "deployments", number), deployment, pods)
        if application.get("import_path") == IMPORT_PATH:
            yield from _ours(path, application, entries, pods)


def _replica(path: KeyPath, deployment: dict[str, Any], pods: Pods) -> Found:
    """One replica has to fit into one pod, and the GPUs of all into all pods."""
    options = deployment.get("ray_actor_options")
    options = options if isinstance(options, dict) else {}
    for key, have, noun in (("num_cpus", pods.cpus, "CPUs"), ("num_gpus", pods.gpus, "GPUs")):
        want = options.get(key)
        if isinstance(want, (int, float)) and have is not None and want > have:
            yield (
                (*path, "ray_actor_options", key),
                f"a replica asks for {want:g} {noun}, a worker pod has {have:g}; lower it or give the pods more",
            )
    each, replicas = options.get("num_gpus"), deployment.get("num_replicas", 1)
    if not isinstance(each, (int, float)) or not isinstance(replicas, int) or not pods.gpus or pods.count is None:
        return
    if each <= pods.gpus and each * replicas > pods.gpus * pods.count:
        yield (
            (*path, "num_replicas"),
            f"{replicas} replicas of {each:g} GPUs need {each * replicas:g}, the {pods.count} worker pods have "
            f"{pods.gpus * pods.count}; lower num_replicas or add pods",
        )


def _ours(path: KeyPath, application: dict[str, Any], deployments: list[dict[str, Any]], pods: Pods) -> Found:
    try:
        args = AppArgs.model_validate(application.get("args") or {})
    except ValidationError:
        return
    places = {one.get("name"): (*path, "deployments", index) for index, one in enumerate(deployments)}
    named = {one.get("name"): one for one in deployments}
    api, generator = named.get(API, {}), named.get(GENERATOR, {})
    device = args.device or ("cuda" if pods.gpus else "cpu")
    if args.device == "cuda" and pods.gpus == 0:
        yield (*path, "args", "device"), "cuda, but the worker pods have no GPUs; give them some or write cpu"
        return
    ranks = max(1, pods.gpus or 0)
    if pods.cpus is not None and pods.gpus is not None:
        message = pod_problem(
            pods.cpus,
            ranks,
            device,
            api_cpus=_number(api, "num_cpus", args.api_cpus),
            leader_cpus=args.leader_cpus,
            rank_cpus=args.rank_cpus,
        )
        if message:
            yield (*path, "args"), message
    if pods.gpus is None or pods.count is None:
        return
    try:
        workers = UserConfig.model_validate(generator.get("user_config") or {}).total_workers
    except ValidationError:
        return
    gangs = generator.get("num_replicas", args.gangs)
    if not isinstance(gangs, int):
        return
    need = worker_pods(workers, gangs, ranks)
    if need > pods.count:
        yield (
            (*places[GENERATOR], "user_config", "total_workers"),
            f"{gangs} gang(s) of {workers} ranks need {need} worker pods of {ranks} rank(s), there are {pods.count}; "
            "add pods (replicas of the worker group) or lower total_workers or num_replicas",
        )
    replicas = api.get("num_replicas", 1)
    if replicas != pods.count:
        yield (
            (*places.get(API, (*path, "deployments")), "num_replicas"),
            f"found {replicas}, but every one of the {pods.count} worker pods needs one {API} to become Ready; "
            f"write {pods.count}, with max_replicas_per_node: 1",
        )
    elif pods.count > 1 and api.get("max_replicas_per_node") != 1:
        yield (
            (*places[API], "max_replicas_per_node"),
            f"found {api.get('max_replicas_per_node')}, but a pod without an {API} never becomes Ready; write 1",
        )


def _number(deployment: dict[str, Any], key: str, default: float) -> float:
    options = deployment.get("ray_actor_options")
    value = options.get(key) if isinstance(options, dict) else None
    return float(value) if isinstance(value, (int, float)) else default
