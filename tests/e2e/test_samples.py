"""`kubectl apply -f examples/rayservice.yaml`, as its first lines say, on a small node."""

import secrets
from pathlib import Path

import yaml

from testing.cluster import Cluster
from testing.control_plane.api import Json
from testing.release import Release
from testing.waiting import until

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_applied_rayservice_is_filled_in_and_resized(cluster: Cluster, release: Release) -> None:
    # The operator, and nothing else of the chart: its own RayCluster stays without an application.
    release.helm(
        "install",
        "kind=RayCluster",
        "app.deploy=false",
        "totalWorkers=1",
        "operator.tokenSecrets[0]=sample-ray-token",
        "fullnameOverride=platform",
    )
    until("the operator serves", lambda: release.pods("operator") and _ready(release), 120, every=0.5)
    password = secrets.token_hex(16)
    objects = [
        _secret("wan22-redis", "password", password),
        _secret("sample-ray-token", "auth_token", secrets.token_hex(16)),
        *_small(cluster, "redis.yaml"),
        *_small(cluster, "rayservice.yaml"),
    ]
    cluster.apply(*objects, namespace=release.namespace)
    sample = Release(cluster, release.namespace, "sample")
    sample.object = "wan22-rayservice"
    sample.http.close()
    sample.http = cluster.service(release.namespace, "wan22-rayservice-serve-svc", 8000)
    until("its gang stands", lambda: [gang["have"] for gang in sample.gangs()] == [2], 240, every=1)
    assert sample.make("applied")["attempt"] == 1
    sample.annotate(total_workers=1)
    until("its gang is smaller", lambda: [gang["have"] for gang in sample.gangs()] == [1], 120, every=1)
    assert sample.make("resized")["attempt"] == 1
    sample.close()


def _ready(release: Release) -> bool:
    deployments = release.cluster.kubectl(
        "get", "deployments", f"--namespace={release.namespace}", "--output=jsonpath={.items[*].status.readyReplicas}"
    )
    return bool(deployments.strip())


def _secret(name: str, key: str, value: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value}}


def _small(cluster: Cluster, file: str) -> list[Json]:
    """Return an example's objects with what the node has: its images, the tiny model, small pods."""
    values: Json = {}
    for path in cluster.values:
        values |= yaml.safe_load(path.read_text()) or {}
    objects: list[Json] = [one for one in yaml.safe_load_all((EXAMPLES / file).read_text(encoding="utf-8")) if one]
    for body in objects:
        for pod in _pod_specs(body):
            for container in pod["containers"]:
                _shrink(container, values)
        for claim in [body, *body.get("spec", {}).get("volumeClaimTemplates", [])]:
            if claim.get("kind") == "PersistentVolumeClaim" or "accessModes" in claim.get("spec", {}):
                claim["spec"]["resources"] = {"requests": {"storage": "1Gi"}}
        if body["kind"] == "RayService":
            body["spec"]["rayClusterConfig"]["authOptions"]["secretName"] = "sample-ray-token"
    return objects


def _pod_specs(body: Json) -> list[Json]:
    if body["kind"] == "StatefulSet":
        return [body["spec"]["template"]["spec"]]
    if body["kind"] == "RayService":
        config = body["spec"]["rayClusterConfig"]
        return [
            config["headGroupSpec"]["template"]["spec"],
            *(group["template"]["spec"] for group in config["workerGroupSpecs"]),
        ]
    return []


def _shrink(container: Json, values: Json) -> None:
    if container["name"] == "redis":
        image = values["redis"]["image"]
        container["image"] = f"{image['repository']}:{image['tag']}"
    container["imagePullPolicy"] = "IfNotPresent"
    # Without GPUs in the pods, the operator has ranks compute on CPU.
    container["resources"] = {
        "requests": {"cpu": "100m", "memory": "256Mi"},
        "limits": {"cpu": "2", "memory": "4Gi"},
    }
    for variable in container.get("env", []):
        if variable["name"] == "MODEL_PATH":
            variable["value"] = values["model"]["path"]
