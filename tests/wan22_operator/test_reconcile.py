"""One look at an object: what guards its writes, and what a failed look tells."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.aio.client import ApiException
from wan22_operator import admission, metrics
from wan22_operator import constants as names
from wan22_operator import reconcile as reconcile_module
from wan22_operator.kube import object_path
from wan22_operator.object_cache import ObjectCache
from wan22_operator.observed import Gang, Leader
from wan22_operator.ray_head import RayHead
from wan22_operator.reconcile import Reconciler
from wan22_operator.reports import Recorder
from wan22_operator.settings import Settings
from wan22_operator.snapshots import read

from app.tasks.gang_state import GangPhase
from serve_config import ServeValues, render
from testing.control_plane.manifests import ray_cluster_spec, ray_service
from tests.wan22_operator.fake_kube import FakeKube

SERVICE = object_path(names.RAY_SERVICE, "ns", "wan22-rayservice")
CLUSTER = object_path(names.RAY_CLUSTER, "ns", "c")
KEY = (names.RAY_SERVICE, "ns", "wan22-rayservice")


class Head(RayHead):
    """A head with one whole gang of two ranks in pods 0 and 1; ``meanwhile`` is called when it is asked for nodes."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None

    async def gangs(self, *_: Any) -> tuple[Gang, ...]:
        return (Gang(2, 2, GangPhase.READY, 2, addresses=frozenset({"10.0.0.0", "10.0.0.1"})),)

    async def leaders(self, *_: Any) -> tuple[Leader, ...]:
        return (Leader("10.0.0.0", True),)

    async def nodes(self, *_: Any) -> frozenset[str]:
        self.meanwhile()
        return frozenset(f"10.0.0.{n}" for n in range(4))


class Plane:
    """A RayService of 2 ranks whose RayCluster still has 4 pods."""

    def __init__(self) -> None:
        active = {"active-workers": "2", "active-gangs": "1", "active-pods": "4"}
        body = ray_service("ns", annotations={f"wan22.dev/{key}": value for key, value in active.items()})
        group = body["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
        group |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), 4)
        body["spec"]["serveConfigV2"] = body["spec"]["serveConfigV2"].replace('"num_replicas": 2', '"num_replicas": 4')
        body["status"] = {"activeServiceStatus": {"rayClusterName": "c"}}
        owner = {"kind": names.RAY_SERVICE, "name": "wan22-rayservice"}
        metadata = {"namespace": "ns", "name": "c", "ownerReferences": [owner], "labels": {names.MANAGED: "true"}}
        cluster = {
            "metadata": metadata | {"annotations": {}},
            "spec": json.loads(json.dumps(body["spec"]["rayClusterConfig"])),
        }
        self.kube = FakeKube({SERVICE: body, CLUSTER: cluster})
        pods = [
            {
                "metadata": {"name": f"pod-{n}", "labels": {names.GROUP_LABEL: names.WORKER_GROUP}},
                "status": {"podIP": f"10.0.0.{n}", "phase": "Running"},
            }
            for n in range(4)
        ]
        self.kube.store("/api/v1/namespaces/ns/pods", {"items": pods})
        self.head, self.cache = Head(), ObjectCache()
        settings = Settings(webhook_enabled=False)
        self.reconciler = Reconciler(self.kube, self.head, self.cache, Recorder(self.kube, "o"), settings)
        self.watch()

    def watch(self) -> None:
        """Let the operator's watches see everything."""
        self.cache.put(read(names.RAY_SERVICE, self.kube.objects[SERVICE]))
        self.cache.put(read(names.RAY_CLUSTER, self.kube.objects[CLUSTER]))

    @property
    def leaving(self) -> str | None:
        annotations: dict[str, str] = self.kube.objects[CLUSTER]["metadata"]["annotations"]
        return annotations.get(names.WORKERS_TO_DELETE)


async def test_pods_without_a_rank_are_named() -> None:
    plane = Plane()
    await plane.reconciler.reconcile(KEY)
    assert plane.leaving == '["pod-2", "pod-3"]'


async def test_what_kuberay_changes_during_a_look_voids_its_decision() -> None:
    plane = Plane()

    def kuberay_writes() -> None:
        plane.head.meanwhile = lambda: None
        plane.kube.store(CLUSTER, plane.kube.objects[CLUSTER] | {"status": {"desiredWorkerReplicas": 4}})
        plane.watch()

    plane.head.meanwhile = kuberay_writes
    assert await plane.reconciler.reconcile(KEY) == pytest.approx(0.05)
    assert plane.leaving is None
    await plane.reconciler.reconcile(KEY)
    assert plane.leaving == '["pod-2", "pod-3"]'


async def test_a_look_that_fails_is_told_in_status_event_and_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = Plane()

    async def refused(*_: Any) -> frozenset[str]:
        raise ApiException(status=403, reason="secrets is forbidden")

    monkeypatch.setattr(plane.head, "nodes", refused)
    before = metrics.RECONCILES.labels("failed")._value.get()
    for _ in range(2):
        with pytest.raises(ApiException):
            await plane.reconciler.reconcile(KEY)
    status = json.loads(plane.kube.objects[SERVICE]["metadata"]["annotations"][names.STATUS])
    assert status["phase"] == "failing"
    assert "403: secrets is forbidden" in status["message"]
    assert metrics.RECONCILES.labels("failed")._value.get() == before + 2
    events = [body for verb, path, body in plane.kube.writes if verb == "POST" and path.endswith("/events")]
    assert [event["reason"] for event in events] == ["LookFailed"]


async def test_a_look_that_fails_because_nothing_can_be_written_says_so_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plane = Plane()
    plane.kube.refuse = 422
    with pytest.raises(ApiException):
        await plane.reconciler.reconcile(KEY)
    assert "its status cannot be written: the API server answered 422" in caplog.text


async def test_a_growth_that_a_quota_cut_short_is_taken_back_to_the_pods_that_exist() -> None:
    plane = Plane()
    listed = plane.kube.objects["/api/v1/namespaces/ns/pods"]
    plane.kube.store("/api/v1/namespaces/ns/pods", listed | {"items": listed["items"][:3]})
    await plane.reconciler.reconcile(KEY)
    assert names.ACTIVE_PODS not in plane.kube.objects[CLUSTER]["metadata"]["annotations"]
    failure = {"conditions": [{"type": "ReplicaFailure", "status": "True"}]}
    plane.kube.store(CLUSTER, plane.kube.objects[CLUSTER] | {"status": failure})
    plane.watch()
    await plane.reconciler.reconcile(KEY)
    assert plane.kube.objects[CLUSTER]["spec"]["workerGroupSpecs"][0]["replicas"] == 3
    await plane.reconciler.reconcile(KEY)
    assert plane.leaving == '["pod-2"]'


async def test_ray_nodes_of_another_worker_group_are_not_counted() -> None:
    plane = Plane()
    pods = plane.kube.objects["/api/v1/namespaces/ns/pods"]
    pods["items"][3]["metadata"]["labels"] = {names.GROUP_LABEL: "other"}
    del pods["items"][2]
    plane.kube.objects[SERVICE]["metadata"]["annotations"][names.TOTAL_WORKERS] = "4"
    plane.watch()
    await plane.reconciler.reconcile(KEY)
    status = json.loads(plane.kube.objects[SERVICE]["metadata"]["annotations"][names.STATUS])
    assert status["message"] == "2 of 4 worker pods have joined Ray"


def edited(plane: Plane, noted: int, **fields: int) -> dict[str, Any]:
    """Have somebody edit the RayCluster that the operator has sized at ``noted`` pods; return its worker group."""
    body = plane.kube.objects[CLUSTER]
    counts = {"active-workers": "1", "active-gangs": "1", "active-pods": str(noted)}
    body["metadata"]["annotations"] = {f"{names.PREFIX}{key}": value for key, value in counts.items()}
    group: dict[str, Any] = body["spec"]["workerGroupSpecs"][0]
    group |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), noted) | fields
    plane.kube.store(CLUSTER, body)
    plane.watch()
    return group


async def test_pods_that_somebody_added_to_a_raycluster_leave_on_proof() -> None:
    plane = Plane()
    edited(plane, 2, replicas=4, maxReplicas=4)
    await plane.reconciler.reconcile(KEY)
    group = plane.kube.objects[CLUSTER]["spec"]["workerGroupSpecs"][0]
    assert plane.leaving == '["pod-2", "pod-3"]'
    assert group["replicas"] == 2
    assert group["scaleStrategy"] == {"workersToDelete": ["pod-2", "pod-3"]}


async def test_pods_that_somebody_added_stay_while_a_gang_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    plane = Plane()
    edited(plane, 2, replicas=4, maxReplicas=4)

    async def starting(*_: Any) -> tuple[Gang, ...]:
        return (Gang(2, 2, GangPhase.STARTING, 2, addresses=frozenset({"10.0.0.0", "10.0.0.1"})),)

    monkeypatch.setattr(plane.head, "gangs", starting)
    await plane.reconciler.reconcile(KEY)
    group = plane.kube.objects[CLUSTER]["spec"]["workerGroupSpecs"][0]
    assert (plane.leaving, group["replicas"]) == (None, 4)


@pytest.mark.parametrize(
    "fields",
    [{"replicas": 1, "minReplicas": 0}, {"replicas": 0, "minReplicas": 0, "maxReplicas": 0}, {"maxReplicas": 9}],
)
async def test_a_raycluster_that_somebody_edited_is_repaired(
    fields: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = Plane()
    edited(plane, 4, **fields)

    async def silent(*_: Any) -> None:
        return None

    monkeypatch.setattr(plane.head, "gangs", silent)
    await plane.reconciler.reconcile(KEY)
    group = plane.kube.objects[CLUSTER]["spec"]["workerGroupSpecs"][0]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (4, 4, 4)


async def test_an_object_whose_deletion_no_watch_told_is_forgotten() -> None:
    plane = Plane()
    for path in (SERVICE, CLUSTER):
        del plane.kube.objects[path]
    await plane.reconciler.reconcile(KEY)
    assert plane.cache.get(KEY) is None
    assert plane.cache.get((names.RAY_CLUSTER, "ns", "c")) is None
    assert await plane.reconciler.reconcile(KEY) is None
    assert not any(path.endswith("/events") for _, path, _ in plane.kube.writes)


class Webhook:
    """The mutating webhook of a Plane; the API server does not reach it for its first ``missed`` calls."""

    def __init__(self, missed: int) -> None:
        self.missed = missed
        self._before: Any = None

    def __call__(self, body: dict[str, Any]) -> dict[str, Any]:
        if "serveConfigV2" not in body["spec"]:
            return body
        self.missed -= 1
        if self.missed >= 0:
            return body
        text = body["spec"]["serveConfigV2"]
        new = read(names.RAY_SERVICE, body)
        for operation in admission.drift(new, self._before):
            FakeKube()._apply(body, operation)
        assert text
        return body


def growing(plane: Plane, missed: int, patience: float = 30) -> None:
    """Have the Plane's RayService wait for room for 8 ranks, with webhooks that miss their first calls."""
    plane.kube.webhook = Webhook(missed)
    settings = Settings(webhook_patience_seconds=patience)
    plane.reconciler = Reconciler(plane.kube, plane.head, plane.cache, Recorder(plane.kube, "o"), settings)
    plane.kube.objects[SERVICE]["metadata"]["annotations"][names.TOTAL_WORKERS] = "8"
    plane.watch()


def events(plane: Plane) -> list[str]:
    return [body["reason"] for verb, path, body in plane.kube.writes if verb == "POST" and path.endswith("/events")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile_module, "RETRY_SECONDS", 0)


@pytest.mark.usefixtures("at_once")
async def test_a_webhook_that_misses_a_call_is_asked_again() -> None:
    plane = Plane()
    growing(plane, missed=1)
    await plane.reconciler.reconcile(KEY)
    assert plane.kube.objects[SERVICE]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replicas"] == 8
    assert set(plane.kube.managers) == {""}
    assert "WroteSpecDirectly" not in events(plane)


@pytest.mark.usefixtures("at_once")
async def test_while_the_webhooks_are_away_the_operator_waits_before_it_writes_specs() -> None:
    plane = Plane()
    growing(plane, missed=9)
    for _ in range(3):
        assert await plane.reconciler.reconcile(KEY) == 0
        group = plane.kube.objects[SERVICE]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
        assert group["replicas"] == 4
    await plane.reconciler.reconcile(KEY)
    group = plane.kube.objects[SERVICE]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    assert group["replicas"] == 8
    assert "WroteSpecDirectly" not in events(plane)


@pytest.mark.usefixtures("at_once")
async def test_what_the_operator_wrote_itself_is_given_back_once_the_webhooks_answer() -> None:
    plane = Plane()
    growing(plane, missed=3, patience=0)
    await plane.reconciler.reconcile(KEY)
    assert plane.kube.objects[SERVICE]["metadata"]["managedFields"] == [{"manager": names.DIRECT}]
    assert "WroteSpecDirectly" in events(plane)
    webhook, plane.kube.webhook = plane.kube.webhook, None
    await plane.reconciler.reconcile(KEY)
    assert plane.kube.objects[SERVICE]["metadata"]["managedFields"] == [{"manager": names.DIRECT}]
    plane.kube.webhook = webhook
    await plane.reconciler.reconcile(KEY)
    assert plane.kube.objects[SERVICE]["metadata"]["managedFields"] == []
    assert "GaveSpecBack" in events(plane)


async def test_with_webhooks_switched_off_the_spec_has_a_field_manager_of_its_own() -> None:
    plane = Plane()
    plane.kube.objects[SERVICE]["metadata"]["annotations"][names.TOTAL_WORKERS] = "8"
    plane.watch()
    await plane.reconciler.reconcile(KEY)
    assert names.DIRECT in plane.kube.managers
    assert "WroteSpecDirectly" in events(plane)


def changed_by_somebody(plane: Plane, observed: int) -> dict[str, Any]:
    """Have the RayService want 8 ranks, at its generation 5, of which KubeRay has noted ``observed``."""
    body = plane.kube.objects[SERVICE]
    body["metadata"]["annotations"][names.TOTAL_WORKERS] = "8"
    body["metadata"]["generation"] = 5
    body["status"]["observedGeneration"] = observed
    plane.kube.store(SERVICE, body)
    plane.watch()
    return body


def room(plane: Plane) -> tuple[str, str | None]:
    """Return the pods that RayService and RayCluster have room for."""
    service, cluster = (plane.kube.objects[path]["metadata"]["annotations"] for path in (SERVICE, CLUSTER))
    return service[names.ACTIVE_PODS], cluster.get(names.ACTIVE_PODS)


async def test_a_growth_waits_until_kuberay_has_decided_about_a_new_raycluster() -> None:
    plane = Plane()
    changed_by_somebody(plane, observed=4)
    await plane.reconciler.reconcile(KEY)
    assert room(plane) == ("4", None)
    changed_by_somebody(plane, observed=5)
    await plane.reconciler.reconcile(KEY)
    assert room(plane) == ("8", None)


async def test_a_growth_does_not_wait_for_kuberay_to_note_what_the_operator_wrote() -> None:
    plane = Plane()
    changed_by_somebody(plane, observed=5)

    def bump(body: dict[str, Any]) -> dict[str, Any]:
        if "serveConfigV2" in body["spec"] and body["spec"] != plane.kube.objects[SERVICE]["spec"]:
            body["metadata"]["generation"] += 1
        return body

    plane.kube.webhook = bump
    await plane.reconciler.reconcile(KEY)
    plane.watch()
    await plane.reconciler.reconcile(KEY)
    assert room(plane) == ("8", "8")


async def test_a_growth_waits_for_a_kuberay_that_notes_nothing_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plane = Plane()
    changed_by_somebody(plane, observed=4)
    await plane.reconciler.reconcile(KEY)
    monkeypatch.setattr(reconcile_module, "UNSEEN_SECONDS", 0)
    await plane.reconciler.reconcile(KEY)
    assert room(plane) == ("8", None)


async def test_the_surplus_of_a_raycluster_that_is_being_replaced_leaves() -> None:
    plane = Plane()
    body = plane.kube.objects[SERVICE]
    body["status"]["pendingServiceStatus"] = {"rayClusterName": "new"}
    plane.kube.store(SERVICE, body)
    plane.watch()
    await plane.reconciler.reconcile(KEY)
    assert plane.leaving == '["pod-2", "pod-3"]'


async def test_a_raycluster_is_judged_by_its_configmap_and_not_by_defaults_that_do_not_fit_its_pods() -> None:
    name = "wan22-ray-cluster"
    path = object_path(names.RAY_CLUSTER, "ns", name)
    annotations = {names.SERVE_CONFIG: "config", names.DECLARED: '{"totalWorkers": 8, "gangs": 1}'}
    metadata = {"namespace": "ns", "name": name, "labels": {names.MANAGED: "true"}, "annotations": annotations}
    spec = ray_cluster_spec(1, 8, "wan22:1")
    container = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    container["resources"] = {"limits": {"cpu": "4", "nvidia.com/gpu": "8"}}
    values = ServeValues(total_workers=8, gpus_per_worker=8, worker_cpus=4, api_cpus=0.1, leader_cpus=0.1)
    plane = Plane()
    plane.kube.store(path, {"metadata": metadata, "spec": spec})
    text = {names.SERVE_CONFIG_KEY: render(values)}
    plane.kube.store("/api/v1/namespaces/ns/configmaps/config", {"data": text})
    plane.cache.put(read(names.RAY_CLUSTER, plane.kube.objects[path]))
    sent: list[object] = []

    class Deployed(Head):
        async def deployed(self, *_: Any) -> dict[str, Any]:
            return {}

        async def deploy(self, _: Any, config: object) -> None:
            sent.append(config)

    settings = Settings(webhook_enabled=False)
    reconciler = Reconciler(plane.kube, Deployed(), plane.cache, Recorder(plane.kube, "o"), settings)
    await reconciler.reconcile((names.RAY_CLUSTER, "ns", name))
    status = json.loads(plane.kube.objects[path]["metadata"]["annotations"][names.STATUS])
    assert status["phase"] != "refused"
    assert len(sent) == 1

    plane.kube.store("/api/v1/namespaces/ns/configmaps/config", {"data": {names.SERVE_CONFIG_KEY: "applications: 1"}})
    await reconciler.reconcile((names.RAY_CLUSTER, "ns", name))
    status = json.loads(plane.kube.objects[path]["metadata"]["annotations"][names.STATUS])
    assert "applications" in status["message"]
    assert len(sent) == 1


BUDGET = "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/workers"


@pytest.mark.parametrize(("workers", "least"), [(1, 0), (2, 1), (8, 7)])
async def test_a_drain_may_take_one_of_the_pods_that_the_gangs_need(workers: int, least: int) -> None:
    plane = Plane()
    annotations = plane.kube.objects[SERVICE]["metadata"]["annotations"]
    counts = {names.ACTIVE_WORKERS: str(workers), names.TOTAL_WORKERS: str(workers)}
    annotations |= counts | {names.ACTIVE_PODS: "8", names.BUDGET: "workers"}
    plane.kube.store(BUDGET, {"spec": {"selector": {}, "minAvailable": 3}})
    plane.watch()
    await plane.reconciler.reconcile(KEY)
    assert plane.kube.objects[BUDGET]["spec"]["minAvailable"] == least


async def test_a_missing_disruption_budget_is_named() -> None:
    plane = Plane()
    plane.kube.objects[SERVICE]["metadata"]["annotations"][names.BUDGET] = "workers"
    plane.watch()
    await plane.reconciler.reconcile(KEY)
    assert "NoDisruptionBudget" in events(plane)
