"""Faults in the middle of a task, on real processes: every accepted task ends once, and succeeds."""

import os
import signal
import time

import psutil

from testing.service import LONG_TASK, Service
from testing.waiting import until


def begin(service: Service, task_id: str, workers: int = 2) -> None:
    service.bring_up(workers=workers)
    service.submit(task_id, **LONG_TASK)
    service.wait_for_step(task_id)


def assert_succeeded(service: Service, task_id: str, attempt: int, seconds: float = 90) -> None:
    task = service.wait_for_end(task_id, seconds)
    assert (task["status"], task["attempt"], task["error"]) == ("succeeded", attempt, None)
    files = [path.name for path in (service.videos / task_id).iterdir()]
    assert [name.partition("-")[0] for name in files] == [str(attempt)], "one video, of the attempt that won"


def test_a_killed_rank_costs_one_attempt_and_neither_leader_nor_entrypoint(service: Service) -> None:
    begin(service, "rank-killed")
    leader, entrypoints = service.gang()["pid"], service.entrypoint_pids()
    os.kill(service.rank_pids()[1], signal.SIGKILL)
    assert_succeeded(service, "rank-killed", attempt=2)
    assert (service.gang()["pid"], service.entrypoint_pids()) == (leader, entrypoints)


def test_a_killed_leader_costs_one_attempt(service: Service) -> None:
    begin(service, "leader-killed")
    ranks = service.rank_pids()
    os.kill(service.gang()["pid"], signal.SIGKILL)
    assert_succeeded(service, "leader-killed", attempt=2)
    assert not any(psutil.pid_exists(pid) for pid in ranks), "a leader's ranks go with it"


def test_a_killed_entrypoint_costs_no_attempt(service: Service) -> None:
    begin(service, "entrypoint-killed")
    (entrypoint,) = service.entrypoint_pids()
    os.kill(entrypoint, signal.SIGKILL)
    assert_succeeded(service, "entrypoint-killed", attempt=1)


def test_a_restarted_redis_costs_no_attempt(service: Service) -> None:
    begin(service, "redis-restarted")
    service.redis.kill()
    assert service.http.post("/generate", json={"task_id": "meanwhile"}).status_code == 503
    assert service.http.get("/readyz").status_code == 503
    assert service.http.get("/healthz").status_code == 200
    service.redis.start()
    assert_succeeded(service, "redis-restarted", attempt=1)
    service.submit("afterwards")
    assert_succeeded(service, "afterwards", attempt=1)


def test_redis_away_for_longer_than_a_lease_starts_no_running_task_twice(service: Service) -> None:
    service.bring_up(workers=1, gangs=2)
    service.submit("redis-away", num_inference_steps=150, num_frames=17)
    service.wait_for_step("redis-away")
    os.kill(service.redis.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    until("more than a lease passes", lambda: time.monotonic() > stopped + 6)
    os.kill(service.redis.pid, signal.SIGCONT)
    assert_succeeded(service, "redis-away", attempt=1)


def test_a_stopped_leader_that_comes_back_writes_nothing(service: Service) -> None:
    service.bring_up(workers=1, gangs=2)
    service.submit("leader-stopped", **LONG_TASK)
    service.wait_for_step("leader-stopped")
    (old,) = until("its gang says so", lambda: [one for one in service.gangs() if one["task_id"] == "leader-stopped"])
    # Its rank stops with it, so that it still has steps to do when it comes back.
    pids = [old["pid"], *(rank["pid"] for node in old["nodes"] for rank in node["ranks"])]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert_succeeded(service, "leader-stopped", attempt=2)
    (winner,) = (service.videos / "leader-stopped").glob("2-*.mp4")
    before = winner.read_bytes()
    for pid in pids:
        os.kill(pid, signal.SIGCONT)

    def idle() -> bool:
        return all(gang["task_id"] is None for gang in service.gangs())

    until("the old leader sees that it lost", lambda: idle() and len(service.gangs()) == 2, 60)
    assert service.task("leader-stopped")["attempt"] == 2
    assert winner.read_bytes() == before
    until("its file is swept", lambda: len(list(winner.parent.iterdir())) == 1)


def test_a_hung_rank_is_found_and_counts_as_dead(service: Service) -> None:
    begin(service, "rank-hung")
    hung = service.rank_pids()[1]
    os.kill(hung, signal.SIGSTOP)
    assert_succeeded(service, "rank-hung", attempt=2)
    assert hung not in service.rank_pids()


def test_twenty_tasks_on_two_gangs_are_taken_in_order_one_each(service: Service) -> None:
    service.bring_up(workers=1, gangs=2)
    names = [f"t{number:02}" for number in range(20)]
    for name in names:
        service.submit(name, num_inference_steps=3)
    tasks = [service.wait_for_end(name) for name in names]
    assert {task["status"] for task in tasks} == {"succeeded"}
    assert {task["attempt"] for task in tasks} == {1}
    begun = [task["started_at"] for task in tasks]
    # The two gangs that are free at once may begin in either order; nobody is overtaken by more than that.
    assert all(earlier < later for earlier, later in zip(begun, begun[2:], strict=False))
    ends = sorted(task["finished_at"] for task in tasks)
    assert all(start >= end for start, end in zip(sorted(begun)[2:], ends, strict=False)), "never three at once"


def test_a_running_task_is_cancelled_on_every_rank(service: Service) -> None:
    begin(service, "cancelled")
    assert service.http.delete("/generate/cancelled").status_code == 200
    task = service.wait_for_end("cancelled", 20)
    assert task["status"] == "cancelled"
    assert task["progress"]["step"] < LONG_TASK["num_inference_steps"]
    service.submit("next")
    assert_succeeded(service, "next", attempt=1)
