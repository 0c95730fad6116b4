"""Operators, API servers and requests that die in the middle."""

from collections.abc import Callable

import pytest

from testing.control_plane.api import Refused
from testing.control_plane.manifests import ray_service
from testing.control_plane.operators import Operator
from testing.waiting import until
from tests.control_plane.managed import Managed

StartOperator = Callable[..., Operator]


def test_killed_after_every_step_it_still_arrives(managed: Managed, operators: StartOperator) -> None:
    running = operators()
    managed.apply()
    managed.until_settled(2)
    name = managed.cluster_name()

    def progress() -> tuple[object, ...]:
        annotations = managed.service()["metadata"]["annotations"]
        cluster = managed.cluster(name)["metadata"]["annotations"]
        active = tuple(annotations.get(f"wan22.dev/active-{key}") for key in ("workers", "gangs", "pods"))
        return *active, cluster.get("wan22.dev/active-pods"), cluster.get("wan22.dev/workers-to-delete")

    def another_step(target: int, before: tuple[object, ...]) -> bool:
        """Wait until a step was taken, or none is left."""
        until("it goes on", lambda: progress() != before or managed.settled(target), 60, every=0.02)
        return progress() != before

    kills = 0
    for target in (4, 1):
        before = progress()
        managed.annotate(total_workers=target)
        while another_step(target, before):
            running.kill()
            kills += 1
            before = progress()
            running.start()
        managed.until_settled(target)
    assert kills >= 4, "of up: room, cluster, counts; down: counts, pods leave, seen off, room"


def test_another_replica_goes_on_when_the_leader_is_killed(managed: Managed, operators: StartOperator) -> None:
    first = operators(LEASE_SECONDS="10")
    managed.apply()
    managed.until_settled(2)
    second = operators(LEASE_SECONDS="10")
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{managed.namespace}/leases/wan22-operator"
    assert managed.api.request("GET", lease)["spec"]["holderIdentity"] == first.name
    first.kill()
    managed.annotate(total_workers=4)
    until("the other leads", lambda: managed.api.request("GET", lease)["spec"]["holderIdentity"] == second.name, 15)
    managed.until_settled(4)


def test_both_replicas_answer_webhooks(managed: Managed, operators: StartOperator) -> None:
    first, second = operators(), operators()
    managed.apply()
    first.kill()
    answer = managed.annotate(active_workers=4, active_pods=4)
    assert '"total_workers": 4' in answer["spec"]["serveConfigV2"]
    assert second.process is not None
    assert second.process.alive()


def test_a_restarted_api_server_is_found_again(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.until_settled(2)
    managed.plane.processes["kube-apiserver"].kill()
    managed.plane.start_apiserver()
    managed.plane.wait_for_apiserver()
    managed.annotate(total_workers=4)
    managed.until_settled(4, seconds=90)


def test_webhooks_that_were_away_are_made_up_for(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.until_settled(2)
    operator.kill()
    managed.annotate(active_workers=4, active_pods=4, total_workers=4)
    assert managed.config()[0] == 2, "nobody applied it"
    operator.start()
    managed.until_settled(4)
    assert not managed.events("WroteSpecDirectly"), "the webhook did it, not the operator itself"


def test_a_deleted_lease_is_made_again(managed: Managed, operator: Operator) -> None:
    managed.apply()
    managed.until_settled(2)
    path = f"/apis/coordination.k8s.io/v1/namespaces/{managed.namespace}/leases/wan22-operator"
    managed.api.delete(path)
    until("the operator makes it", lambda: (managed.api.get(path) or {}).get("spec", {}).get("holderIdentity"))
    managed.annotate(total_workers=4)
    managed.until_settled(4)


def test_a_raycluster_that_is_edited_while_no_webhook_answers_is_repaired(
    managed: Managed, operators: StartOperator
) -> None:
    operators("webhook.enabled=false", wait=False)
    managed.apply()
    managed.until_settled(2)
    before = set(managed.workers())
    path = f"{managed.base}/rayclusters/{managed.cluster_name()}/"
    for replicas in (5, 1):
        patch = [
            {"op": "replace", "path": f"/spec/workerGroupSpecs/0/{field}", "value": replicas}
            for field in ("replicas", "minReplicas", "maxReplicas")
        ]
        managed.api.request("PATCH", path.rstrip("/"), patch, "json-patch+json")
        until("KubeRay follows", lambda: len(managed.workers()) == replicas or managed.settled(2))  # noqa: B023
        managed.until_settled(2)
        if replicas == 5:
            assert set(managed.workers()) == before, "the pods with ranks stay"


def test_a_spec_that_the_operator_wrote_itself_is_given_back_to_its_author(
    managed: Managed, operators: StartOperator
) -> None:
    operators(WEBHOOK_PATIENCE_SECONDS="1", RESYNC_SECONDS="2")
    managed.apply()
    managed.until_settled(2)
    _reach_webhooks(managed, "https://127.0.0.1:9/")
    managed.annotate(total_workers=4)
    managed.until_settled(4)
    assert managed.events("WroteSpecDirectly")
    body = ray_service(managed.namespace)
    with pytest.raises(Refused, match="conflict"):
        managed.api.apply(body, manager="user", force=False)
    _reach_webhooks(managed, "")
    until("the operator gives the spec back", lambda: managed.events("GaveSpecBack"), 30)
    managed.api.apply(body, manager="user", force=False)
    managed.until_settled(4)


def _reach_webhooks(managed: Managed, url: str) -> None:
    """Have the API server call the webhooks at another URL; an empty one puts their own back."""
    base = "/apis/admissionregistration.k8s.io/v1/"
    for kind, path in (("mutatingwebhookconfigurations", "mutate"), ("validatingwebhookconfigurations", "validate")):
        name = f"{base}{kind}/wan22-operator-{managed.namespace}"
        hook = managed.api.request("GET", name)["webhooks"][0]
        own = hook["clientConfig"]["url"]
        annotation = {"metadata": {"annotations": {"own-url": own}}}
        if url:
            managed.api.merge(name, annotation)
        else:
            own = managed.api.request("GET", name)["metadata"]["annotations"]["own-url"]
        patch = [{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": f"{url}{path}" if url else own}]
        managed.api.request("PATCH", name, patch, "json-patch+json")
