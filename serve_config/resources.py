"""Checks that the resources that a serveConfigV2 asks for fit into the worker pods."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.config import IMPORT_PATH, AppArgs, UserConfig
from app.plan import worker_pods
from serve_config.counts import API, GENERATOR
from serve_config.document import KeyPath
from serve_config.pod_budget import PodBudget, milli

Found = Iterator[tuple[KeyPath, str]]


@dataclass(frozen=True)
class Pods:
    """The worker pods of a cluster; None for what is not known."""

    cpus: float | None = None
    """CPUs that Ray counts on one pod."""
    gpus: int | None = None
    """GPUs that Ray counts on one pod."""
    count: int | None = None


def misfits(config: dict[str, Any], pods: Pods) -> Found:
    """Yield a problem for every part of a serveConfigV2 that cannot fit into ``pods``."""
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
    """Yield a problem if one replica does not fit into one pod, or the GPUs of all replicas into all pods."""
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
    """Hold this project's application against the pods: its CPUs in one pod, its ranks and replicas in all."""
    try:
        args = AppArgs.model_validate(application.get("args") or {})
    except ValidationError:
        return  # the check of the arguments reports it
    if args.device == "cuda" and pods.gpus == 0:
        yield (*path, "args", "device"), "cuda, but the worker pods have no GPUs; give them some or write cpu"
        return
    entries = {one.get("name"): ((*path, "deployments", index), one) for index, one in enumerate(deployments)}
    nowhere: tuple[KeyPath, dict[str, Any]] = ((*path, "deployments"), {})
    (api_path, api), (generator_path, generator) = entries.get(API, nowhere), entries.get(GENERATOR, nowhere)
    if pods.cpus is not None and pods.gpus is not None:
        budget = PodBudget(
            cpus=milli(pods.cpus),
            ranks=max(1, pods.gpus),
            device=args.device or ("cuda" if pods.gpus else "cpu"),
            api=milli(_number(api, "num_cpus", args.api_cpus)),
            leader=milli(args.leader_cpus),
            given_rank=milli(args.rank_cpus),
        )
        if budget.problem:
            yield (*path, "args"), budget.problem
    if pods.gpus is None or pods.count is None:
        return
    try:
        workers = UserConfig.model_validate(generator.get("user_config") or {}).total_workers
    except ValidationError:
        return  # so does the check of user_config
    gangs = generator.get("num_replicas", args.gangs)
    if isinstance(gangs, int):
        yield from _ranks(generator_path, workers, gangs, max(1, pods.gpus), pods.count)
        yield from _one_api_per_pod(api_path, api, pods.count)


def _ranks(path: KeyPath, workers: int, gangs: int, ranks: int, count: int) -> Found:
    """Yield a problem if ``count`` pods of ``ranks`` ranks cannot hold all gangs."""
    need = worker_pods(workers, gangs, ranks)
    if need > count:
        yield (
            (*path, "user_config", "total_workers"),
            f"{gangs} gang(s) of {workers} ranks need {need} worker pods of {ranks} rank(s), there are {count}; "
            "add pods (replicas of the worker group) or lower total_workers or num_replicas",
        )


def _one_api_per_pod(path: KeyPath, api: dict[str, Any], count: int) -> Found:
    """Yield a problem unless each of ``count`` worker pods gets one APIEntrypoint, without which it is never ready."""
    replicas, per_node = api.get("num_replicas", 1), api.get("max_replicas_per_node")
    if replicas != count:
        yield (
            (*path, "num_replicas"),
            f"found {replicas}, but every one of the {count} worker pods needs one {API} to become Ready; "
            f"write {count}, with max_replicas_per_node: 1",
        )
    elif count > 1 and per_node != 1:
        yield (
            (*path, "max_replicas_per_node"),
            f"found {per_node}, but a pod without an {API} never becomes Ready; write 1",
        )


def _number(deployment: dict[str, Any], key: str, default: float) -> float:
    options = deployment.get("ray_actor_options")
    value = options.get(key) if isinstance(options, dict) else None
    return float(value) if isinstance(value, (int, float)) else default
