"""Kubernetes manifests that hold a serveConfigV2, and the worker pods they ask for."""

from dataclasses import dataclass
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from serve_config.check import check_serve_config
from serve_config.document import KeyPath, get, plain, scalar
from serve_config.names import MANAGED, SERVE_CONFIG_KEY, WORKER_GROUP
from serve_config.problems import Positions, Problem
from serve_config.resources import Pods
from serve_config.worker_group import Group, ray_cpus, ray_gpus, uncounted_gpus

CLUSTERS = {"RayService": ("spec", "rayClusterConfig"), "RayCluster": ("spec",)}
"""Kinds with a RayCluster's spec, and the path to it."""


@dataclass(frozen=True)
class Checked:
    """The result for one object of a manifest."""

    name: str
    problems: list[Problem]
    note: str = ""
    text: str | None = None
    """Its serveConfigV2."""


def documents(text: str) -> list[Node]:
    """Return the objects in a text that is a manifest; none if it is no manifest or cannot be read."""
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if isinstance(node, MappingNode)]
    except yaml.YAMLError:
        return []
    return [node for node in nodes if get(node, "apiVersion") is not None and get(node, "kind") is not None]


def check_manifest(text: str, given: Pods, *, with_ray: bool) -> list[Checked]:
    """Check every serveConfigV2 in a manifest. A size that ``given`` leaves open is read from the worker group."""
    nodes = documents(text)
    pods = given
    for node in nodes:
        path = CLUSTERS.get(str(scalar(get(node, "kind"))))
        if path:
            found = read_pod_sizes(_dig(node, *path))
            pods = Pods(
                *(have if have is not None else new for have, new in zip(_facts(given), _facts(found), strict=True))
            )
    checked = []
    for node in nodes:
        kind = str(scalar(get(node, "kind")))
        name = f"{kind} {scalar(_dig(node, 'metadata', 'name'))}"
        if problems := _uncounted_gpus(node, kind):
            checked.append(Checked(name, problems))
        if kind == "RayService":
            checked.append(_text(text, name, node, _dig(node, "spec", SERVE_CONFIG_KEY), pods, with_ray))
        elif kind == "ConfigMap" and _dig(node, "data", SERVE_CONFIG_KEY) is not None:
            checked.append(_text(text, name, node, _dig(node, "data", SERVE_CONFIG_KEY), pods, with_ray))
        elif kind == "RayCluster":
            checked.append(Checked(name, [], "holds no serveConfigV2; the operator or a Job deploys it"))
    return checked


def _text(text: str, name: str, node: Node, value: Node | None, pods: Pods, with_ray: bool) -> Checked:
    if value is None or not scalar(value):
        if scalar(_dig(node, "metadata", "labels", MANAGED)) == "true":
            return Checked(name, [], "has no serveConfigV2; the operator's webhook fills it in at admission")
        message = f'missing; write one (python -m serve_config prints it), or set the label {MANAGED}: "true"'
        return Checked(
            name, [Problem(f"spec.{SERVE_CONFIG_KEY}", f"{message} if the operator runs, which fills it in")]
        )
    assert isinstance(value, ScalarNode)
    problems = check_serve_config(str(value.value), pods, with_ray=with_ray)
    mark = value.start_mark
    if value.style in ("|", ">"):
        first = next((line for line in text.splitlines()[mark.line + 1 :] if line.strip()), "")
        problems = [problem.moved(mark.line + 1, len(first) - len(first.lstrip())) for problem in problems]
    else:
        problems = [
            Problem(f"{SERVE_CONFIG_KEY} (line {mark.line + 1}) {problem.where}".strip(), problem.message)
            for problem in problems
        ]
    return Checked(name, problems, text=str(value.value))


def read_pod_sizes(cluster: Node | None) -> Pods:
    """Return the CPUs, GPUs and count of the worker pods that a RayCluster's spec asks for."""
    number, group = _worker_group(cluster)
    if number is None:
        return Pods()
    replicas = group.get("replicas")
    return Pods(ray_cpus(group), ray_gpus(group), replicas if isinstance(replicas, int) else None)


def _worker_group(cluster: Node | None) -> tuple[int | None, Group]:
    """Return the worker group of the ranks, with its index: the one that the operator follows, else the first."""
    spec = plain(cluster) if cluster is not None else None
    groups = spec.get("workerGroupSpecs") if isinstance(spec, dict) else None
    found = [(index, group) for index, group in enumerate(groups or ()) if isinstance(group, dict)]
    named = (each for each in found if each[1].get("groupName") == WORKER_GROUP)
    return next(named, found[0] if found else (None, {}))


def _uncounted_gpus(node: Node, kind: str) -> list[Problem]:
    """Return a problem for each limit of a worker pod that looks like GPUs while Ray counts none."""
    path = CLUSTERS.get(kind)
    if path is None:
        return []
    number, group = _worker_group(_dig(node, *path))
    if number is None:
        return []
    above: KeyPath = (*path, "workerGroupSpecs", number)
    limits: KeyPath = (*above, "template", "spec", "containers", 0, "resources", "limits")
    return [
        Positions(node).problem(
            (*limits, name),
            "KubeRay counts it as no GPU for Ray, only names that end in gpu and nvidia.com/mig-<N>g.<M>gb; "
            "limit such a resource (a shared GPU keeps the name nvidia.com/gpu if the device plugin's renameByDefault "
            "is false), or set num-gpus in the group's rayStartParams",
        )
        for name in uncounted_gpus(group)
    ]


def _facts(pods: Pods) -> tuple[Any, ...]:
    return pods.cpus, pods.gpus, pods.count


def _dig(node: Node | None, *path: str) -> Node | None:
    for key in path:
        node = get(node, key)
    return node
