"""Deploys the Serve configuration on a standalone RayCluster; KubeRay does this for a RayService."""

import json
from dataclasses import replace
from typing import Any

from serve_config.document import compose, plain
from wan22_operator import constants as names
from wan22_operator.admission import configured
from wan22_operator.desired import Active
from wan22_operator.kube import Kube
from wan22_operator.off_loop import off_loop
from wan22_operator.ray_head import RayHead
from wan22_operator.snapshots import Snapshot


async def deploy(kube: Kube, ray_head: RayHead, cluster: Snapshot, active: Active) -> bool:
    """Deploy the cluster's Serve configuration with the active counts; return False if Serve has it already.

    A head that restarted without its state has no application and is sent the configuration again.

    Raises:
        LookupError: the ConfigMap that the cluster names has no configuration.
        NoAnswerError: the dashboard does not answer or refuses the configuration.
    """
    config = await _configuration(kube, cluster, active)
    deployed = await ray_head.deployed(cluster)
    wanted = {application.get("name", "default"): application for application in config.get("applications", ())}
    if all(_contains(deployed.get(name), application) for name, application in wanted.items()):
        return False
    await ray_head.deploy(cluster, config)
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
    return await off_loop(_value, replace(cluster, serve_config=text), active)


def _value(cluster: Snapshot, active: Active) -> dict[str, Any]:
    value = plain(compose(configured(cluster, active)))
    assert isinstance(value, dict)
    return value


def _contains(deployed: object, wanted: object) -> bool:
    """Return True if the configuration that Serve reports has every wanted value; Serve may add keys for defaults."""
    if isinstance(wanted, dict):
        return isinstance(deployed, dict) and all(_contains(deployed.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(deployed, list)
            and len(deployed) == len(wanted)
            and all(_contains(left, right) for left, right in zip(deployed, wanted, strict=True))
        )
    return deployed == wanted or json.dumps(deployed) == json.dumps(wanted)
