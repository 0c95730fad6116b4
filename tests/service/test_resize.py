"""The worker count changes on the running application: no process that stays is restarted, no task is lost."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from testing.service import HEAD_CPUS, LONG_TASK, Service
from testing.waiting import until


def test_growing_and_shrinking_keeps_processes_and_tasks(service: Service) -> None:
    service.bring_up(workers=1)
    leader, entrypoints = service.gang()["pid"], service.entrypoint_pids()
    submitted: list[str] = []
    for count in (2, 4, 2):
        for number in range(3):
            submitted.append(f"to-{count}-{len(submitted)}")
            service.submit(submitted[-1], num_inference_steps=5 if number else 60)
        service.wait_for_step(submitted[-3])
        before = service.rank_pids()
        service.resize(count)
        service.wait_for_gangs(workers=count)
        kept = min(count, len(before))
        assert service.rank_pids()[:kept] == before[:kept]
        assert (service.gang()["pid"], service.entrypoint_pids()) == (leader, entrypoints)
    ends = [service.wait_for_end(name) for name in submitted]
    assert {(task["status"], task["attempt"]) for task in ends} == {("succeeded", 1)}


def test_a_count_without_a_plan_is_refused_with_the_allowed_ones(service: Service) -> None:
    service.bring_up(workers=2)
    service.resize(3)
    gang = until("it is refused", lambda: service.gang() if service.gang()["phase"] == "refused" else None)
    assert (gang["wanted"], gang["have"]) == (3, 2)
    assert "3 ranks have no parallel plan for a model with 4 attention heads; use one of 1, 2, 4, 8" in gang["message"]
    until("the deployment is up to date", lambda: service.status()["status"] == "RUNNING")
    service.submit("still-served")
    assert service.wait_for_end("still-served")["status"] == "succeeded"


def test_a_wrong_user_config_leaves_the_gang_as_it_is(service: Service) -> None:
    service.bring_up(workers=2)
    service.config["applications"][0]["deployments"][1]["user_config"] = {"total_workers": "many"}
    service._put()
    until("it is refused", lambda: "total_workers: Input should be a valid integer" in service.gang()["message"])
    assert service.gang()["have"] == 2
    until("the deployment is up to date", lambda: service.status()["status"] == "RUNNING")


@pytest.fixture
def wide(service: Service) -> Iterator[Service]:
    """A service whose ranks are so large that the head has room for two."""
    service.bring_up(workers=2, rank_cpus=HEAD_CPUS * 0.45)
    yield service
    service.resize(2)
    service.wait_for_gangs(workers=2)


@pytest.fixture
def more_nodes(wide: Service) -> Iterator[list[Any]]:
    """Two more nodes, each with room for one of those ranks."""
    cluster: Cluster = wide.cluster
    nodes = [cluster.add_node(num_cpus=HEAD_CPUS // 2) for _ in range(2)]
    yield nodes
    wide.resize(2)
    wide.wait_for_gangs(workers=2)
    for node in nodes:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)


def test_a_count_for_which_there_is_no_room_leaves_the_gang_serving(wide: Service) -> None:
    pids = wide.rank_pids()
    wide.resize(4)
    gang = until("it gives up for now", lambda: wide.gang() if wide.gang()["phase"] == "degraded" else None)
    assert (gang["wanted"], gang["have"]) == (4, 2)
    assert "no room for 2 more ranks within 6 s; trying again" in gang["message"]
    assert wide.rank_pids() == pids
    wide.submit("old-gang")
    assert wide.wait_for_end("old-gang")["status"] == "succeeded"


def test_a_leader_that_restarts_meanwhile_serves_degraded_and_grows_when_it_can(wide: Service) -> None:
    wide.resize(4)
    old = wide.gang()["pid"]
    os.kill(old, signal.SIGKILL)

    def restarted() -> bool:
        return [(gang["have"], gang["phase"]) for gang in wide.gangs() if gang["pid"] != old] == [(2, "degraded")]

    until("it serves with what there is", restarted, 120)
    wide.submit("degraded")
    assert wide.wait_for_end("degraded")["status"] == "succeeded"
    node = wide.cluster.add_node(num_cpus=HEAD_CPUS)
    try:
        gang = wide.wait_for_gangs(workers=4)[0]
        assert [len(place["ranks"]) for place in gang["nodes"]] == [2, 2]
        wide.submit("grown")
        assert wide.wait_for_end("grown")["status"] == "succeeded"
        wide.resize(2)
        assert len(wide.wait_for_gangs(workers=2)[0]["nodes"]) == 1, "the last node is given up first"
    finally:
        wide.cluster.remove_node(node)


def test_ranks_are_numbered_node_by_node_and_a_lost_node_costs_an_attempt(wide: Service, more_nodes: list[Any]) -> None:
    wide.resize(4)
    gang = wide.wait_for_gangs(workers=4)[0]
    assert [[rank["rank"] for rank in node["ranks"]] for node in gang["nodes"]] == [[0, 1], [2], [3]]
    assert [node["leader"] for node in gang["nodes"]] == [True, False, False]
    wide.submit("node-lost", **LONG_TASK)
    wide.wait_for_step("node-lost")
    wide.cluster.remove_node(more_nodes.pop(), allow_graceful=False)
    task = wide.wait_for_end("node-lost", 120)
    assert (task["status"], task["attempt"]) == ("succeeded", 2)
    assert (wide.gang()["wanted"], wide.gang()["have"]) == (4, 2)


def test_an_idle_gang_that_stands_apart_moves_together_when_it_can(wide: Service) -> None:
    nodes = [wide.cluster.add_node(num_cpus=HEAD_CPUS) for _ in range(2)]
    # Each of the two new nodes has room for two ranks, and something else takes half of it.
    others = [_occupy(node.node_id, HEAD_CPUS * 0.45) for node in nodes]
    try:
        wide.resize(4)
        apart = wide.wait_for_gangs(workers=4)[0]
        assert [len(node["ranks"]) for node in apart["nodes"]] == [2, 1, 1]
        kept = wide.rank_pids()[:3]
        for other in others:
            ray.kill(other)

        def together() -> bool:
            return [len(node["ranks"]) for node in wide.gang()["nodes"]] == [2, 2]

        until("it stands on two nodes", together, 60)
        assert wide.rank_pids()[:3] == kept
        wide.submit("together")
        assert wide.wait_for_end("together")["attempt"] == 1
    finally:
        wide.resize(2)
        wide.wait_for_gangs(workers=2)
        for node in nodes:
            wide.cluster.remove_node(node)


def _occupy(node_id: str, cpus: float) -> Any:
    class Other:
        def ready(self) -> bool:
            return True

    pinned = NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor = ray.remote(Other).options(num_cpus=cpus, scheduling_strategy=pinned).remote()
    assert ray.get(actor.ready.remote(), timeout=60)
    return actor


def test_a_rank_that_hangs_during_a_resize_is_found(service: Service) -> None:
    service.bring_up(workers=1)
    (hung,) = service.rank_pids()
    service.submit("hangs", **LONG_TASK)
    service.wait_for_step("hangs")
    service.resize(2)
    until("it resizes", lambda: service.gang()["phase"] == "resizing")
    os.kill(hung, signal.SIGSTOP)
    service.wait_for_gangs(workers=2, seconds=120)
    assert hung not in service.rank_pids()
    task = service.wait_for_end("hangs")
    assert (task["status"], task["attempt"]) == ("succeeded", 2)


def test_health_checks_are_answered_all_the_while(service: Service) -> None:
    service.bring_up(workers=2)
    service.resize(4)
    slowest = 0.0

    def grown() -> bool:
        nonlocal slowest
        reply = service.http.get("/healthz")
        slowest = max(slowest, reply.elapsed.total_seconds())
        # Serve shows no deployments for a moment while it takes a new config in.
        for deployment in service.status()["deployments"].values():
            assert deployment["status"] in ("HEALTHY", "UPDATING"), deployment
        return bool(service.gang()["have"] == 4)

    until("it has grown", grown, 90)
    assert slowest < 1, "while four ranks load on the same cores"


def test_gangs_are_added_and_removed(service: Service) -> None:
    service.bring_up(workers=1, gangs=1)
    (first,) = service.gangs()
    service.bring_up(workers=1, gangs=2)
    assert first["pid"] in {gang["pid"] for gang in service.gangs()}
    service.bring_up(workers=1, gangs=1)
    with httpx.Client(base_url=service.http.base_url) as client:
        assert client.get("/readyz").status_code == 200
