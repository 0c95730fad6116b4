"""Other ways to run: webhooks off, the Ray autoscaler, a RayCluster of its own."""

import base64
import json
from collections.abc import Callable

from serve_config import ServeValues, render
from tests.control_plane.manifests import ray_cluster_spec
from tests.control_plane.operators import Operator
from tests.control_plane.world import World
from tests.waiting import until

StartOperator = Callable[..., Operator]


def test_without_webhooks_the_operator_writes_the_spec_and_warns(world: World, operators: StartOperator) -> None:
    operators("webhook.enabled=false", wait=False)
    world.apply()
    world.until_settled(2)
    world.annotate(total_workers=4)
    world.until_settled(4)
    world.annotate(total_workers=1)
    world.until_settled(1)
    assert any("helm upgrade" in message for message in world.events("WroteSpecDirectly"))


def test_without_webhooks_a_wrong_annotation_leaves_the_gang_as_it_is(world: World, operators: StartOperator) -> None:
    operators("webhook.enabled=false", wait=False)
    world.apply()
    world.until_settled(2)
    for bad in ("0", "-1", "four", "2.5", "1e3", "99999999999999999999", "3"):
        world.annotate(total_workers=bad)
        until(f"{bad} is refused", lambda: world.status().get("phase") == "refused")
        until(bad, lambda: any(repr(bad) in text or "3 ranks" in text for text in world.events("BadCount")))  # noqa: B023
        assert (world.config(), world.replicas()) == ((2, 1, 2), 2)
        world.annotate(total_workers=None)
        until("it is ready again", lambda: world.status().get("phase") == "ready")


def test_the_ray_autoscalers_replicas_are_left_alone(world: World, operator: Operator) -> None:
    world.apply(enableInTreeAutoscaling=True)
    name = world.until_active()
    until("the status says so", lambda: "autoscaler" in world.status().get("message", ""))
    world.annotate(total_workers=4)
    until("the counts follow", lambda: world.config() == (4, 1, 4))
    assert world.replicas(name) == 2
    assert any("autoscaler" in message for message in world.events("Autoscaling"))


def test_a_ray_cluster_is_resized_and_given_its_serve_config(world: World, operator: Operator) -> None:
    api, namespace, name = world.api, world.namespace, "wan22-ray-cluster"
    path = f"{world.base}/rayclusters/{name}"
    token = base64.b64encode(b"ray-token").decode()
    secret = {"name": "wan22-ray-token", "namespace": namespace}
    api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": secret, "data": {"auth_token": token}})
    values = ServeValues(total_workers=2, attention_heads=40)
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "serve-config", "namespace": namespace},
            "data": {"serveConfigV2": render(values)},
        }
    )
    api.apply(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {"wan22.dev/managed": "true"},
                "annotations": {
                    "wan22.dev/declared": json.dumps({"totalWorkers": 2, "gangs": 1}),
                    "wan22.dev/serve-config": "serve-config",
                },
            },
            "spec": ray_cluster_spec(2, 1, "wan22:1")
            | {"authOptions": {"mode": "token", "secretName": "wan22-ray-token"}},
        },
        manager="helm",
    )

    def settled(workers: int) -> None:
        def look() -> bool:
            body = world.cluster(name)
            status = json.loads(body["metadata"]["annotations"].get("wan22.dev/status", "{}"))
            counts = {"totalWorkers": workers, "gangs": 1}
            return (
                status.get("phase") == "ready"
                and status["have"] == counts == status["wanted"]
                and body["spec"]["workerGroupSpecs"][0]["replicas"] == workers == len(world.workers(name))
                and world.head(name).counts() == (workers, 1, workers)
            )

        until(f"settled at {workers}", look)

    settled(2)
    assert "Bearer ray-token" in world.head(name).tokens
    for workers in (4, 1):
        api.merge(path, {"metadata": {"annotations": {"wan22.dev/total-workers": str(workers)}}})
        settled(workers)
    assert not world.events("WroteSpecDirectly")

    head = world.head(name)
    head.configs.clear()
    head.gangs.clear()
    api.merge(path, {"metadata": {"annotations": {"nudge": "1"}}})
    settled(1)


def test_one_operator_can_follow_all_namespaces(world: World, operators: StartOperator) -> None:
    operators("operator.clusterWide=true")
    other = World(world.plane, f"{world.namespace}-other")
    world.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": other.namespace}})
    try:
        other.apply()
        other.until_settled(2)
        other.annotate(total_workers=4)
        other.until_settled(4)
    finally:
        world.api.delete(f"/api/v1/namespaces/{other.namespace}")
