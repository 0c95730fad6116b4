"""Operators, API servers and requests that die in the middle."""

from collections.abc import Callable

from tests.control_plane.operators import Operator
from tests.control_plane.world import World
from tests.waiting import until

StartOperator = Callable[..., Operator]


def test_killed_after_every_step_it_still_arrives(world: World, operators: StartOperator) -> None:
    running = operators()
    world.apply()
    world.until_settled(2)
    name = world.cluster_name()

    def progress() -> tuple[object, ...]:
        annotations = world.service()["metadata"]["annotations"]
        cluster = world.cluster(name)["metadata"]["annotations"]
        active = tuple(annotations.get(f"wan22.dev/active-{key}") for key in ("workers", "gangs", "pods"))
        return *active, cluster.get("wan22.dev/active-pods"), cluster.get("wan22.dev/workers-to-delete")

    def another_step(target: int, before: tuple[object, ...]) -> bool:
        """Wait until a step was taken, or none is left."""
        until("it goes on", lambda: progress() != before or world.settled(target), 60, every=0.02)
        return progress() != before

    kills = 0
    for target in (4, 1):
        before = progress()
        world.annotate(total_workers=target)
        while another_step(target, before):
            running.kill()
            kills += 1
            before = progress()
            running.start()
        world.until_settled(target)
    assert kills >= 4, "of up: room, cluster, counts; down: counts, pods leave, seen off, room"


def test_another_replica_goes_on_when_the_leader_is_killed(world: World, operators: StartOperator) -> None:
    first = operators(LEASE_SECONDS="10")
    world.apply()
    world.until_settled(2)
    second = operators(LEASE_SECONDS="10")
    lease = f"/apis/coordination.k8s.io/v1/namespaces/{world.namespace}/leases/wan22-operator"
    assert world.api.request("GET", lease)["spec"]["holderIdentity"] == first.name
    first.kill()
    world.annotate(total_workers=4)
    until("the other leads", lambda: world.api.request("GET", lease)["spec"]["holderIdentity"] == second.name, 15)
    world.until_settled(4)


def test_both_replicas_answer_webhooks(world: World, operators: StartOperator) -> None:
    first, second = operators(), operators()
    world.apply()
    first.kill()
    answer = world.annotate(active_workers=4, active_pods=4)
    assert '"total_workers": 4' in answer["spec"]["serveConfigV2"]
    assert second.process is not None
    assert second.process.alive()


def test_a_restarted_api_server_is_found_again(world: World, operator: Operator) -> None:
    world.apply()
    world.until_settled(2)
    world.plane.processes["kube-apiserver"].kill()
    world.plane.start_apiserver()
    world.plane.wait_for_apiserver()
    world.annotate(total_workers=4)
    world.until_settled(4, seconds=90)


def test_webhooks_that_were_away_are_made_up_for(world: World, operator: Operator) -> None:
    world.apply()
    world.until_settled(2)
    operator.kill()
    world.annotate(active_workers=4, active_pods=4, total_workers=4)
    assert world.config()[0] == 2, "nobody applied it"
    operator.start()
    world.until_settled(4)
    assert not world.events("WroteSpecDirectly"), "the webhook did it, not the operator itself"
