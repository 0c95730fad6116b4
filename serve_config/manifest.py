"""Kubernetes manifests that hold a serveConfigV2, and the worker pods they ask for."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from serve_config.check import check_serve_config
from serve_config.document import get, plain, scalar
from serve_config.problems import Problem
from serve_config.resources import Pods

MANAGED = "wan22.dev/managed"
GROUP = "gpu-workers"
KEY = "serveConfigV2"


@dataclass(frozen=True)
class Checked:
    """What was found in one object of a manifest."""

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
    """Check every serveConfigV2 in a manifest; what ``given`` leaves open follows from its worker group."""
    nodes = documents(text)
    clusters = {"RayService": ("spec", "rayClusterConfig"), "RayCluster": ("spec",)}
    pods = given
    for node in nodes:
        path = clusters.get(str(scalar(get(node, "kind"))))
        if path:
            found = worker_pods(_dig(node, *path))
            pods = Pods(
                *(have if have is not None else new for have, new in zip(_facts(given), _facts(found), strict=True))
            )
    checked = []
    for node in nodes:
        kind = str(scalar(get(node, "kind")))
        name = f"{kind} {scalar(_dig(node, 'metadata', 'name'))}"
        if kind == "RayService":
            checked.append(_text(text, name, node, _dig(node, "spec", KEY), pods, with_ray))
        elif kind == "ConfigMap" and _dig(node, "data", KEY) is not None:
            checked.append(_text(text, name, node, _dig(node, "data", KEY), pods, with_ray))
        elif kind == "RayCluster":
            checked.append(Checked(name, [], "holds no serveConfigV2; the operator or a Job deploys it"))
    return checked


def _text(text: str, name: str, node: Node, value: Node | None, pods: Pods, with_ray: bool) -> Checked:
    if value is None or not scalar(value):
        if scalar(_dig(node, "metadata", "labels", MANAGED)) == "true":
            return Checked(name, [], "has no serveConfigV2; the operator's webhook fills it in at admission")
        message = f'missing; write one (python -m serve_config prints it), or set the label {MANAGED}: "true"'
        return Checked(name, [Problem(f"spec.{KEY}", f"{message} where the operator runs, which fills it in")])
    assert isinstance(value, ScalarNode)
    problems = check_serve_config(str(value.value), pods, with_ray=with_ray)
    mark = value.start_mark
    if value.style in ("|", ">"):
        first = next((line for line in text.splitlines()[mark.line + 1 :] if line.strip()), "")
        problems = [problem.moved(mark.line + 1, len(first) - len(first.lstrip())) for problem in problems]
    else:
        problems = [
            Problem(f"{KEY} (line {mark.line + 1}) {problem.where}".strip(), problem.message) for problem in problems
        ]
    return Checked(name, problems, text=str(value.value))


def worker_pods(cluster: Node | None) -> Pods:
    """Return what a RayCluster's spec says about its worker pods."""
    spec = plain(cluster) if cluster is not None else None
    groups = spec.get("workerGroupSpecs") if isinstance(spec, dict) else None
    if not isinstance(groups, list) or not groups:
        return Pods()
    group: dict[str, Any] = next((one for one in groups if one.get("groupName") == GROUP), groups[0])
    try:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    except (KeyError, IndexError, TypeError):
        limits = {}
    gpus = next((int(value) for key, value in limits.items() if str(key).endswith("gpu")), 0)
    replicas = group.get("replicas")
    return Pods(_quantity(limits.get("cpu")), gpus, replicas if isinstance(replicas, int) else None)


def _quantity(value: object) -> float | None:
    try:
        text = str(value)
        return float(Decimal(text[:-1]) / 1000 if text.endswith("m") else Decimal(text))
    except InvalidOperation:
        return None


def _facts(pods: Pods) -> tuple[Any, ...]:
    return pods.cpus, pods.gpus, pods.count


def _dig(node: Node | None, *path: str) -> Node | None:
    for key in path:
        node = get(node, key)
    return node
