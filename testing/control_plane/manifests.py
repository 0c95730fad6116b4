"""Small objects for tests."""

import json
from typing import Any

from serve_config import ServeValues, render

Json = dict[str, Any]


def ray_service(
    namespace: str,
    name: str = "wan22-rayservice",
    *,
    workers: int = 2,
    gangs: int = 1,
    gpus: int = 1,
    image: str = "wan22:1",
    heads: int | None = 40,
    managed: bool = True,
    annotations: dict[str, str] | None = None,
    config: bool = True,
    declared: bool = True,
    **cluster: Any,
) -> Json:
    """Return a RayService as the chart writes it, with the least of pods."""
    values = ServeValues(
        total_workers=workers, gangs=gangs, gpus_per_worker=gpus, attention_heads=heads, worker_cpus=2 * gpus + 2
    )
    given = dict(annotations or {})
    if declared:
        given["wan22.dev/declared"] = json.dumps({"totalWorkers": workers, "gangs": gangs})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"wan22.dev/managed": "true"} if managed else {},
            "annotations": given,
        },
        "spec": {
            **({"serveConfigV2": render(values)} if config else {}),
            "rayClusterDeletionDelaySeconds": 1,
            "rayClusterConfig": ray_cluster_spec(values.pods, gpus, image) | cluster,
        },
    }


def ray_cluster_spec(pods: int, gpus: int, image: str) -> Json:
    """Return the spec of a RayCluster."""
    return {
        "rayVersion": "2.60.0",
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": _pod("ray-head", image, 0)},
        "workerGroupSpecs": [
            {
                "groupName": "gpu-workers",
                "replicas": pods,
                "minReplicas": pods,
                "maxReplicas": pods,
                "rayStartParams": {},
                "template": _pod("ray-worker", image, gpus),
            }
        ],
    }


def _pod(name: str, image: str, gpus: int) -> Json:
    limits = {"cpu": str(2 * gpus + 2), "memory": "1Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return {"spec": {"containers": [{"name": name, "image": image, "resources": {"limits": limits}}]}}
