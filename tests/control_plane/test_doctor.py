"""The doctor on a real control plane; no kubelet runs here, so nothing can be run in pods, which it says."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from wan22_doctor.__main__ import main

from testing.control_plane.api import Json
from testing.control_plane.operators import Operator
from testing.control_plane.plane import ControlPlane
from testing.waiting import until
from tests.control_plane.managed import NAME, Managed

Doctor = Callable[..., tuple[int, dict[str, Json]]]


@pytest.fixture
def doctor(plane: ControlPlane, namespace: str, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs the doctor; returns its exit status, and for each check its last finding."""

    def run(*arguments: str, kubeconfig: str = "") -> tuple[int, dict[str, Json]]:
        capsys.readouterr()
        path = kubeconfig or str(plane.admin_kubeconfig)
        code = main(["--kubeconfig", path, "-n", namespace, "--json", *arguments])
        findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
        return code, {finding["check"]: finding for finding in findings}

    return run


def test_a_missing_service_is_one_finding(doctor: Doctor) -> None:
    code, found = doctor()
    assert code == 1
    assert [check for check, one in found.items() if one["result"] == "failed"] == ["cluster"]
    assert found["pods"] == {**found["pods"], "result": "not checked", "evidence": found["cluster"]["evidence"]}
    assert found["KubeRay"]["result"] == "ok"


def test_a_misspelt_name_is_answered_with_what_there_is(managed: Managed, doctor: Doctor) -> None:
    managed.apply()
    code, found = doctor("typo")
    assert code == 1
    assert f"there is RayService {NAME}" in found["cluster"]["evidence"]


def test_a_running_service_is_seen_as_far_as_there_is_one(managed: Managed, operator: Operator, doctor: Doctor) -> None:
    managed.apply()
    managed.until_settled(2)
    _, found = doctor()
    for check in ("KubeRay", "pods", "serveConfigV2", "resources"):
        assert found[check]["result"] == "ok", found[check]
    assert "2 worker pods Ready" in found["pods"]["evidence"]
    assert "does not have a host assigned" in found["import path"]["evidence"], "there is no kubelet"
    assert found["Redis"]["result"] == "not checked"
    assert "0 of 2 pods available" in found["operator"]["evidence"], "it runs here without its pods"


def test_webhooks_are_tried_by_a_dry_run_that_changes_nothing(
    managed: Managed, operator: Operator, doctor: Doctor
) -> None:
    managed.apply()
    managed.until_settled(2)
    before = managed.service()
    _, found = doctor()
    assert found["webhook"]["result"] == "ok"
    assert "refused a wrong annotation in a dry run; certificate valid for" in found["webhook"]["evidence"]
    assert managed.service()["metadata"]["annotations"] == before["metadata"]["annotations"]
    operator.kill()
    _, found = doctor()
    assert (found["webhook"]["result"], "was let pass" in found["webhook"]["evidence"]) == ("failed", True)


def test_a_lease_that_nobody_renews_is_found(managed: Managed, operator: Operator, doctor: Doctor) -> None:
    managed.apply()
    managed.until_settled(2)
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{managed.namespace}/leases/wan22-operator"
    operator.kill()
    deployment = f"/apis/apps/v1/namespaces/{managed.namespace}/deployments/wan22-operator"
    running = {"status": {"replicas": 2, "readyReplicas": 2, "availableReplicas": 2}}
    managed.api.request("PATCH", f"{deployment}/status", running, "merge-patch+json")
    managed.api.merge(lease, {"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})
    _, found = doctor()
    assert "has not renewed the Lease wan22-operator for" in found["operator"]["evidence"]


def test_a_broken_serve_config_is_shown_with_its_line(managed: Managed, doctor: Doctor) -> None:
    managed.apply(managed=False)
    spec = {"serveConfigV2": "applications:\n  - name: wan22\n    import_path: import ray\n"}
    managed.api.merge(managed.path, {"spec": spec})
    _, found = doctor()
    assert found["serveConfigV2"]["result"] == "failed"
    assert "line 3" in found["serveConfigV2"]["evidence"]


def test_a_pod_that_is_not_scheduled_says_why(managed: Managed, plane: ControlPlane, doctor: Doctor) -> None:
    plane.kubelet.held.add(managed.namespace)
    managed.apply()
    pods = f"/api/v1/namespaces/{managed.namespace}/pods"
    until("there are pods", lambda: managed.api.request("GET", pods)["items"])
    pod = managed.api.request("GET", pods)["items"][0]["metadata"]["name"]
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    managed.api.merge(f"{pods}/{pod}/status", {"status": {"conditions": [condition]}})
    _, found = doctor()
    assert f"pod {pod} is Pending: {message}" in found["pods"]["evidence"]


def test_a_missing_permission_is_named_with_its_verb(managed: Managed, plane: ControlPlane, doctor: Doctor) -> None:
    api = managed.api
    account = {"name": "reader", "namespace": managed.namespace}
    api.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
    rules = [{"apiGroups": ["ray.io"], "resources": ["rayservices", "rayclusters"], "verbs": ["get", "list"]}]
    rbac = "rbac.authorization.k8s.io"
    api.apply({"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": account, "rules": rules})
    api.apply(
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": account,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "reader"},
            "subjects": [{"kind": "ServiceAccount", **account}],
        }
    )
    managed.apply()
    managed.until_active()
    token = plane.token(managed.namespace, "reader")
    _, found = doctor(kubeconfig=str(plane.kubeconfig(f"{managed.namespace}-reader", token)))
    assert found["pods"]["result"] == "not checked"
    assert found["pods"]["evidence"] == f"not allowed to list pods in namespace {managed.namespace}"
    assert "--verb=list --resource=pods" in found["pods"]["remedy"]
    assert found["pods"]["blind"] is True


def test_a_namespace_that_is_not_there_is_named(plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--kubeconfig", str(plane.admin_kubeconfig), "-n", "nowhere"]) == 2
    assert "there is no namespace nowhere" in capsys.readouterr().err
