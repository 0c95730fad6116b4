"""What the webhooks let pass, change and refuse."""

import pytest

from testing.control_plane.api import Refused
from testing.control_plane.operators import Operator
from testing.waiting import until
from tests.control_plane.managed import Managed


def test_wrong_annotations_are_refused_with_what_is_allowed(managed: Managed, operator: Operator) -> None:
    managed.apply(heads=40)
    for bad in ("0", "-1", "four", "2.5", "1e3", "99999999999999999999", "", "3", "81"):
        with pytest.raises(Refused) as refused:
            managed.annotate(total_workers=bad)
        assert "wan22.dev/total-workers" in refused.value.message
        assert "1, 2, 4, 5, 8, 10, 16, 20, 40, 80" in refused.value.message
    with pytest.raises(Refused, match=r"wan22\.dev/gangs.*allowed is a whole number from 1 to 1024"):
        managed.annotate(gangs="0")
    assert managed.annotation("total-workers") is None


def test_a_count_without_a_plan_is_refused_at_creation(managed: Managed, operator: Operator) -> None:
    with pytest.raises(Refused, match="24 attention heads; use one of 1, 2, 3, 4, 6, 8"):
        managed.apply(heads=24, annotations={"wan22.dev/total-workers": "5"})


def test_the_operators_annotations_are_applied_within_the_request(managed: Managed, operator: Operator) -> None:
    managed.apply()
    answer = managed.annotate(active_workers=4, active_pods=4)
    assert answer["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] == 4
    assert '"total_workers": 4' in answer["spec"]["serveConfigV2"]


def test_a_managed_object_without_a_serve_config_is_given_one(managed: Managed, operator: Operator) -> None:
    created = managed.apply(config=False, declared=False, annotations={"wan22.dev/total-workers": "4"})
    assert '"total_workers": 4' in created["spec"]["serveConfigV2"]
    assert created["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] == 4
    managed.until_settled(4)


def test_a_broken_serve_config_is_refused_with_its_place(managed: Managed, operator: Operator) -> None:
    managed.apply()
    patch = [{"op": "add", "path": "/spec/serveConfigV2", "value": "applications:\n  - name: [wan22\n"}]
    with pytest.raises(Refused, match=r"spec.serveConfigV2.*line \d"):
        managed.api.request("PATCH", managed.path, patch, "json-patch+json")


def test_objects_without_the_label_are_never_touched_nor_refused(managed: Managed, operator: Operator) -> None:
    annotations = {"wan22.dev/total-workers": "four"}
    managed.apply(managed=False, declared=False, annotations=annotations)
    name = managed.until_active()
    patch = [{"op": "add", "path": "/spec/serveConfigV2", "value": "applications: []"}]
    managed.api.request("PATCH", managed.path, patch, "json-patch+json")
    until("KubeRay took it as it is", lambda: managed.head(name).configs[-1] == {"applications": []})
    seen = managed.service()["metadata"]["annotations"]
    assert {key: value for key, value in seen.items() if key.startswith("wan22.dev/")} == annotations
    managers = {entry["manager"] for entry in managed.service()["metadata"]["managedFields"]}
    assert managers == {"user", "python-httpx", "kuberay-operator"}, "the test's two, and KubeRay"


def test_the_service_account_may_do_no_more_than_the_operator_needs(managed: Managed, operator: Operator) -> None:
    account = managed.plane.user(managed.namespace, "wan22-operator")
    core = f"/api/v1/namespaces/{managed.namespace}"
    forbidden = [
        ("DELETE", managed.path),
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
    assert account.request("GET", f"{managed.base}/rayservices")["kind"] == "RayServiceList"


def test_resizing_needs_no_permission_that_the_chart_does_not_give(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    managed.annotate(total_workers=1)
    managed.until_settled(1)
    assert operator.process is not None
    assert "orbidden" not in operator.process.log.read_text()
