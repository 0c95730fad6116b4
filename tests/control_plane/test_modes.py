"""Other ways to run: webhooks off, the Ray autoscaler, a RayCluster of its own."""

import base64
import json
from collections.abc import Callable

from serve_config import ServeValues, render
from testing.control_plane.manifests import ray_cluster_spec, ray_service
from testing.control_plane.operators import Operator
from testing.waiting import until
from tests.control_plane.managed import Managed

StartOperator = Callable[..., Operator]


def test_without_webhooks_the_operator_writes_the_spec_and_warns(managed: Managed, operators: StartOperator) -> None:
    operators("webhook.enabled=false", wait=False)
    managed.apply()
    managed.until_settled(2)
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    managed.annotate(total_workers=1)
    managed.until_settled(1)
    assert any("helm upgrade" in message for message in managed.events("WroteSpecDirectly"))


def test_without_webhooks_a_wrong_annotation_leaves_the_gang_as_it_is(
    managed: Managed, operators: StartOperator
) -> None:
    operators("webhook.enabled=false", wait=False)
    managed.apply()
    managed.until_settled(2)
    for bad in ("0", "-1", "four", "2.5", "1e3", "99999999999999999999", "3"):
        managed.annotate(total_workers=bad)
        until(f"{bad} is refused", lambda: managed.status().get("phase") == "refused")
        until(bad, lambda: any(repr(bad) in text or "3 ranks" in text for text in managed.events("BadCount")))  # noqa: B023
        assert (managed.config(), managed.replicas()) == ((2, 1, 2), 2)
        managed.annotate(total_workers=None)
        until("it is ready again", lambda: managed.status().get("phase") == "ready")


def test_the_ray_autoscalers_replicas_are_left_alone(managed: Managed, operator: Operator) -> None:
    managed.apply(enableInTreeAutoscaling=True)
    name = managed.until_active()
    until("the status says so", lambda: "autoscaler" in managed.status().get("message", ""))
    managed.annotate(total_workers=4)
    until("the counts follow", lambda: managed.config() == (4, 1, 4))
    assert managed.replicas(name) == 2
    assert any("autoscaler" in message for message in managed.events("Autoscaling"))


def test_a_ray_cluster_is_resized_and_given_its_serve_config(managed: Managed, operator: Operator) -> None:
    api, namespace, name = managed.api, managed.namespace, "wan22-ray-cluster"
    path = f"{managed.base}/rayclusters/{name}"
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
            body = managed.cluster(name)
            status = json.loads(body["metadata"]["annotations"].get("wan22.dev/status", "{}"))
            counts = {"totalWorkers": workers, "gangs": 1}
            return (
                status.get("phase") == "ready"
                and status["have"] == counts == status["wanted"]
                and body["spec"]["workerGroupSpecs"][0]["replicas"] == workers == len(managed.workers(name))
                and managed.head(name).counts() == (workers, 1, workers)
            )

        until(f"settled at {workers}", look)

    settled(2)
    assert "Bearer ray-token" in managed.head(name).tokens
    for workers in (4, 1):
        api.merge(path, {"metadata": {"annotations": {"wan22.dev/total-workers": str(workers)}}})
        settled(workers)
    assert not managed.events("WroteSpecDirectly")

    head = managed.head(name)
    head.configs.clear()
    head.gangs.clear()
    api.merge(path, {"metadata": {"annotations": {"nudge": "1"}}})
    settled(1)


def test_one_operator_can_follow_all_namespaces(managed: Managed, operators: StartOperator) -> None:
    operators("operator.clusterWide=true")
    other = Managed(managed.plane, f"{managed.namespace}-other")
    managed.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": other.namespace}})
    try:
        other.apply()
        other.until_settled(2)
        other.annotate(total_workers=4)
        other.until_settled(4)
    finally:
        managed.api.delete(f"/api/v1/namespaces/{other.namespace}")


def test_an_operator_follows_the_namespaces_of_its_list_alone(managed: Managed, operators: StartOperator) -> None:
    others = [Managed(managed.plane, f"{managed.namespace}-{name}") for name in ("listed", "unlisted")]
    for other in others:
        managed.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": other.namespace}})
    try:
        operators(f"operator.namespaces={{{others[0].namespace}}}")
        for one in (managed, *others):
            one.apply()
        for one in (managed, others[0]):
            one.until_settled(2)
            one.annotate(total_workers=4)
            one.until_settled(4)
        assert others[1].annotation("status") is None
        others[1].annotate(total_workers="not judged")
    finally:
        for other in others:
            managed.api.delete(f"/api/v1/namespaces/{other.namespace}")


def test_an_object_of_another_release_is_left_to_that_ones_operator(managed: Managed, operator: Operator) -> None:
    managed.apply()
    other = ray_service(managed.namespace, name="another-rayservice")
    other["metadata"]["labels"]["wan22.dev/operator"] = "another-operator"
    other["metadata"]["annotations"]["wan22.dev/total-workers"] = "this operator would refuse it"
    managed.api.apply(other, manager="user")
    managed.until_settled(2)
    found = managed.api.request("GET", f"{managed.base}/rayservices/another-rayservice")
    assert not {"wan22.dev/status", "wan22.dev/active-pods"} & found["metadata"]["annotations"].keys()
    own = ray_service(managed.namespace)
    own["metadata"]["labels"]["wan22.dev/operator"] = "wan22-operator"
    managed.api.apply(own, manager="user")
    managed.annotate(total_workers=4)
    managed.until_settled(4)
