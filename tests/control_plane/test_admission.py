"""What the webhooks let pass, change and refuse."""

import pytest

from tests.control_plane.api import Refused
from tests.control_plane.operators import Operator
from tests.control_plane.world import World
from tests.waiting import until


def test_wrong_annotations_are_refused_with_what_is_allowed(world: World, operator: Operator) -> None:
    world.apply(heads=40)
    for bad in ("0", "-1", "four", "2.5", "1e3", "99999999999999999999", "", "3", "81"):
        with pytest.raises(Refused) as refused:
            world.annotate(total_workers=bad)
        assert "wan22.dev/total-workers" in refused.value.message
        assert "1, 2, 4, 5, 8, 10, 16, 20, 40, 80" in refused.value.message
    with pytest.raises(Refused, match=r"wan22\.dev/gangs.*allowed is a whole number from 1 to 1024"):
        world.annotate(gangs="0")
    assert world.annotation("total-workers") is None


def test_a_count_without_a_plan_is_refused_at_creation(world: World, operator: Operator) -> None:
    with pytest.raises(Refused, match="24 attention heads; use one of 1, 2, 3, 4, 6, 8"):
        world.apply(heads=24, annotations={"wan22.dev/total-workers": "5"})


def test_the_operators_annotations_are_applied_within_the_request(world: World, operator: Operator) -> None:
    world.apply()
    answer = world.annotate(active_workers=4, active_pods=4)
    assert answer["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] == 4
    assert '"total_workers": 4' in answer["spec"]["serveConfigV2"]


def test_a_managed_object_without_a_serve_config_is_given_one(world: World, operator: Operator) -> None:
    created = world.apply(config=False, declared=False, annotations={"wan22.dev/total-workers": "4"})
    assert '"total_workers": 4' in created["spec"]["serveConfigV2"]
    assert created["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] == 4
    world.until_settled(4)


def test_a_broken_serve_config_is_refused_with_its_place(world: World, operator: Operator) -> None:
    world.apply()
    patch = [{"op": "add", "path": "/spec/serveConfigV2", "value": "applications:\n  - name: [wan22\n"}]
    with pytest.raises(Refused, match=r"spec.serveConfigV2.*line \d"):
        world.api.request("PATCH", world.path, patch, "json-patch+json")


def test_objects_without_the_label_are_never_touched_nor_refused(world: World, operator: Operator) -> None:
    annotations = {"wan22.dev/total-workers": "four"}
    world.apply(managed=False, declared=False, annotations=annotations)
    name = world.until_active()
    patch = [{"op": "add", "path": "/spec/serveConfigV2", "value": "applications: []"}]
    world.api.request("PATCH", world.path, patch, "json-patch+json")
    until("KubeRay took it as it is", lambda: world.head(name).configs[-1] == {"applications": []})
    seen = world.service()["metadata"]["annotations"]
    assert {key: value for key, value in seen.items() if key.startswith("wan22.dev/")} == annotations
    managers = {entry["manager"] for entry in world.service()["metadata"]["managedFields"]}
    assert managers == {"user", "python-httpx", "kuberay-operator"}, "the test's two, and KubeRay"


def test_the_service_account_may_do_no_more_than_the_operator_needs(world: World, operator: Operator) -> None:
    account = world.plane.user(world.namespace, "wan22-operator")
    core = f"/api/v1/namespaces/{world.namespace}"
    forbidden = [
        ("DELETE", world.path),
        ("GET", f"{core}/secrets"),
        ("GET", f"{core}/secrets/somebodys"),
        ("DELETE", f"{core}/pods/any"),
        ("GET", "/apis/ray.io/v1/rayservices"),
        ("GET", "/apis/ray.io/v1/namespaces/default/rayservices"),
        ("GET", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"),
    ]
    for verb, path in forbidden:
        with pytest.raises(Refused, match="403"):
            account.request(verb, path)
    assert account.request("GET", f"{world.base}/rayservices")["kind"] == "RayServiceList"


def test_resizing_needs_no_permission_that_the_chart_does_not_give(world: World, operator: Operator) -> None:
    world.apply()
    world.annotate(total_workers=4)
    world.until_settled(4)
    world.annotate(total_workers=1)
    world.until_settled(1)
    assert operator.process is not None
    assert "orbidden" not in operator.process.log.read_text()
