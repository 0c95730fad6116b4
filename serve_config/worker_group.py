"""The CPUs and GPUs that Ray counts on a pod of a worker group, which KubeRay derives from the group's spec.

Source: ray-operator v1.6.1, controllers/ray/common/pod.go (updateRayStartParamsResources, generateRayStartCommand,
addWellKnownAcceleratorResources) and controllers/ray/utils/resources.go (IsGPUResourceKey).
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

Group = Mapping[str, Any]
"""An entry of ``workerGroupSpecs``."""

_SUFFIXES = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000)}
_MIG = re.compile(r"nvidia\.com/mig-\d+g\.\d+gb$")


def is_gpu(resource: str) -> bool:
    """Return whether KubeRay counts a resource as GPUs: a name that ends in gpu, or a plain MIG profile."""
    return resource.endswith("gpu") or _MIG.search(resource) is not None


def ray_gpus(group: Group) -> int:
    """Return the GPUs that Ray counts on one pod.

    KubeRay takes them from the group's ``resources``, else from ``num-gpus`` among its rayStartParams, else from the
    limits of the container that runs Ray: from one resource only, the first by name; several are not added up.
    """
    for name, value in _map(group, "resources").items():
        if is_gpu(str(name).lower()) and (given := _quantity(value)) is not None:
            return math.ceil(given)
    params = _map(group, "rayStartParams")
    if "num-gpus" in params:
        return math.ceil(_quantity(params["num-gpus"]) or 0)
    limits = _limits(group)
    found = (_quantity(limits[name]) for name in sorted(limits) if is_gpu(name))
    return math.ceil(next((value for value in found if value), 0))


def ray_cpus(group: Group) -> int | None:
    """Return the CPUs that Ray counts on one pod; None if nothing bounds them, so that Ray counts the node's.

    KubeRay takes them from the group's ``resources``, else from ``num-cpus``, else from the container's limit or
    request, rounded up.
    """
    given = {str(name).lower(): value for name, value in _map(group, "resources").items()}.get("cpu")
    for value in (given, _map(group, "rayStartParams").get("num-cpus")):
        if (found := _quantity(value)) is not None:
            return math.ceil(found)
    for kind in ("limits", "requests"):
        if found := _quantity(_map(_resources(group), kind).get("cpu")):
            return math.ceil(found)
    return None


def uncounted_gpus(group: Group) -> list[str]:
    """Return the limits that look like GPUs while Ray counts none, such as nvidia.com/gpu.shared.

    Nothing is returned if the group sets ``num-gpus`` or ``resources`` itself, or if Ray counts other GPUs of the pod.
    """
    if _map(group, "resources") or "num-gpus" in _map(group, "rayStartParams") or ray_gpus(group):
        return []
    return [name for name in sorted(_limits(group)) if re.search(r"gpu|/mig-", name) and not is_gpu(name)]


def container(group: Group) -> Mapping[str, Any]:
    """Return the first container of a group's pods, which runs Ray."""
    containers = _map(_map(group, "template"), "spec").get("containers")
    first = containers[0] if isinstance(containers, list) and containers else {}
    return first if isinstance(first, Mapping) else {}


def _resources(group: Group) -> Mapping[str, Any]:
    return _map(container(group), "resources")


def _limits(group: Group) -> dict[str, Any]:
    return {str(name): value for name, value in _map(_resources(group), "limits").items()}


def _map(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _quantity(value: object) -> Decimal | None:
    """Return a Kubernetes quantity; None if it is absent or not readable. Only the suffixes that counts have."""
    found = re.fullmatch(r"(.*?)([mk]?)", str(value).strip())
    try:
        number = Decimal(found[1]) * _SUFFIXES[found[2]] if found else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None
