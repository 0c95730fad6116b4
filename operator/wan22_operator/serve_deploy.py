"""Gives Serve its configuration on a RayCluster of its own, where no KubeRay RayService does it."""

import json
from dataclasses import replace
from typing import Any

import yaml

from wan22_operator import constants as names
from wan22_operator.admission import configured
from wan22_operator.desired import Active
from wan22_operator.gangs import Ray
from wan22_operator.kube import Kube
from wan22_operator.snapshots import Snapshot


async def deploy(kube: Kube, ray: Ray, cluster: Snapshot, active: Active) -> bool:
    """Deploy the cluster's Serve configuration with the active counts, unless Serve has it; return whether it was sent.

    A head that restarted without its state has no application, and gets it again.

    Raises:
        NoAnswerError: the dashboard does not answer or refuses it.
    """
    config = await _configuration(kube, cluster, active)
    deployed = await ray.deployed(cluster)
    wanted = {application.get("name", "default"): application for application in config.get("applications", ())}
    if all(_holds(deployed.get(name), application) for name, application in wanted.items()):
        return False
    await ray.deploy(cluster, config)
    return True


async def _configuration(kube: Kube, cluster: Snapshot, active: Active) -> dict[str, Any]:
    name = cluster.annotations.get(names.SERVE_CONFIG)
    text = ""
    if name:
        found = await kube.get(f"/api/v1/namespaces/{cluster.namespace}/configmaps/{name}")
        text = str(((found or {}).get("data") or {}).get(names.SERVE_CONFIG_KEY) or "")
        if not text:
            raise LookupError(
                f"annotation {names.SERVE_CONFIG}: ConfigMap {cluster.namespace}/{name} has no key "
                f"{names.SERVE_CONFIG_KEY}; create it, or remove the annotation to use the defaults"
            )
    value = yaml.safe_load(configured(replace(cluster, serve_config=text), active))
    assert isinstance(value, dict)
    return value


def _holds(has: object, wanted: object) -> bool:
    """Return whether what Serve reports contains everything that is wanted; it may add defaults."""
    if isinstance(wanted, dict):
        return isinstance(has, dict) and all(_holds(has.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(has, list)
            and len(has) == len(wanted)
            and all(_holds(left, right) for left, right in zip(has, wanted, strict=True))
        )
    return has == wanted or json.dumps(has) == json.dumps(wanted)
