"""The store under any order of calls, repeated replies, expired leases, restarts and wrong clocks.

Hypothesis chooses the calls; the server and the scripts are real. Leases expire by a write to their score, since a
lease by the clock takes seconds. What must hold is checked after every call, in Redis itself: a task that was accepted
ends once, at most one attempt can end it, every key is a task's, and nothing waits for ever.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from app.tasks import scripts
from app.tasks.embedded import EmbeddedRedis
from app.tasks.keys import PREFIX, Key
from app.tasks.store import MOST_DEATHS, Started, SubmissionOutcome, TaskError, TaskStatus, TaskStore
from testing.records import gang_state, task_config

T = TypeVar("T")
CLUSTER = "cluster"
GANGS = 2
QUEUED = 2
IDS = st.sampled_from(["a", "b", "c"])
BODIES = st.sampled_from([{"prompt": "one"}, {"prompt": "two"}])
HOLDERS = st.sampled_from(["dispatcher 1", "dispatcher 2"])
SELDOM = st.sampled_from([False] * 9 + [True])
LEADERS = st.sampled_from(["leader 1", "leader 2"])
TIMES = st.integers(1, 2)
"""How often a call is made: the second time is that of a client whose first reply was lost."""


class Store(RuleBasedStateMachine):
    """Clients, dispatchers and leaders of one store, and what they know."""

    END = ("status", "attempt", "token", "finished_at", "video", "error_code")
    """The fields that never change once a task has ended."""
    server: EmbeddedRedis
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._raw: Any = redis.Redis.from_url(self.server.url, decode_responses=True)
        self._raw.flushall()
        self._bytes: Any = redis.Redis.from_url(self.server.url)
        self._store = self._connect()
        self._bodies: dict[str, Any] = {}
        """The body of every task that was accepted and not forgotten."""
        self._ends: dict[str, dict[str, str | None]] = {}
        """The record of every task that has ended, as it was first seen."""
        self._winners: dict[str, Started] = {}
        """The attempt that ended each task."""

    def _connect(self) -> TaskStore:
        return TaskStore.connect(self.server.url, lease_seconds=60, task_ttl_seconds=0, max_queued_tasks=QUEUED)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(call)

    def teardown(self) -> None:
        try:
            self._drain()
        finally:
            self._run(self._store.close())
            self._loop.close()
            self._raw.close()
            self._bytes.close()

    @initialize()
    def gangs_serve(self) -> None:
        for number in range(GANGS):
            self._run(self._store.publish_gang(gang_state(f"gang-{number}", CLUSTER), serving=True, ttl_seconds=600))
        self._run(self._store.keep_epoch(CLUSTER, complete=True, ttl_seconds=600))

    # Clients

    @rule(task_id=IDS, body=BODIES, times=TIMES)
    def submit(self, task_id: str, body: dict[str, Any], times: int) -> None:
        waiting = self._raw.zcard(Key.QUEUE.full())
        outcomes = [self._run(self._store.submit(task_id, body, task_config())).outcome for _ in range(times)]
        known = self._bodies.get(task_id)
        if known is not None:
            assert set(outcomes) == {SubmissionOutcome.EXISTS if known == body else SubmissionOutcome.CONFLICT}
        elif waiting >= QUEUED:
            assert set(outcomes) == {SubmissionOutcome.FULL}
        else:
            assert outcomes == [SubmissionOutcome.CREATED, SubmissionOutcome.EXISTS][:times]
            self._bodies[task_id] = body

    @rule(task_id=IDS, times=TIMES, really=SELDOM)
    def cancel(self, task_id: str, times: int, really: bool) -> None:
        for _ in range(times if really else 0):
            task = self._run(self._store.cancel(task_id))
            assert (task is None) == (task_id not in self._bodies)

    @rule(really=SELDOM)
    def purge(self, really: bool) -> None:
        for task_id in self._run(self._store.expired(again_seconds=0)) if really else []:
            assert TaskStatus(self._record(task_id)["status"]).ended
            self._run(self._store.forget(task_id))
            self._forgotten(task_id)

    def _forgotten(self, task_id: str) -> None:
        for known in (self._bodies, self._ends, self._winners):
            known.pop(task_id, None)

    # Dispatchers and leaders

    @rule(holder=HOLDERS, giver=HOLDERS)
    def take_and_give_back(self, holder: str, giver: str) -> None:
        """Take for a gang that cannot start a task; the hold stays if another dispatcher gives it back."""
        taken = self._run(self._store.take(CLUSTER, holder))
        if taken:
            self._run(self._store.give_back(taken[0], giver))

    @rule(target=attempts, holder=HOLDERS, leader=LEADERS, times=TIMES, expired=st.booleans())
    def take_and_start(self, holder: str, leader: str, times: int, expired: bool) -> Any:
        if expired:
            self._expire_leases()
        taken = self._run(self._store.take(CLUSTER, holder))
        if not taken:
            return multiple()
        assert self._raw.zcard(Key.HELD_BY_CLUSTER.full(CLUSTER)) <= GANGS
        return self._start(taken[0], leader, times)

    @rule(target=attempts, task_id=IDS, leader=LEADERS, times=TIMES)
    def start_late(self, task_id: str, leader: str, times: int) -> Any:
        """Start a task whose delivery was under way while its hold expired, or while the task ended."""
        return self._start(task_id, leader, times)

    @rule(target=attempts, task_id=IDS, leader=LEADERS)
    def start_and_lose_it(self, task_id: str, leader: str) -> Any:
        """Start a task on a server that fails before its replica hears of it; the leader goes on with the replica."""
        before = {key: self._bytes.dump(key) for key in self._bytes.keys("*")}
        started = self._start(task_id, leader, 1)
        self._bytes.flushall()
        for key, value in before.items():
            self._bytes.restore(key, 0, value)
        return started

    def _start(self, task_id: str, leader: str, times: int) -> Any:
        starts = [self._run(self._store.start(task_id, CLUSTER, leader, 4)) for _ in range(times)]
        assert starts == starts[:1] * times
        return starts[0] if isinstance(starts[0], Started) else multiple()

    @rule(attempt=attempts, step=st.integers(0, 4))
    def beat(self, attempt: Started, step: int) -> None:
        answer = self._run(self._store.beat(attempt, step))
        if answer != "lost":
            record = self._record(attempt.task_id)
            own = (str(attempt.attempt), attempt.token, "running")
            assert (record["attempt"], record["token"], record["status"]) == own

    @rule(attempt=attempts, kind=st.sampled_from(["video", "error", "stop"]), times=TIMES)
    def end(self, attempt: Started, kind: str, times: int) -> None:
        calls = {
            "video": lambda: self._store.succeed(attempt, f"{attempt.task_id}.{attempt.attempt}.mp4"),
            "error": lambda: self._store.fail(attempt, TaskError("code", "message")),
            "stop": lambda: self._store.stop(attempt),
        }
        for _ in range(times):
            if self._run(calls[kind]()):
                assert self._winners.setdefault(attempt.task_id, attempt) == attempt

    @rule(attempt=attempts, blameless=st.booleans(), kind=st.sampled_from(["", "out of memory"]), times=TIMES)
    def abandon(self, attempt: Started, blameless: bool, kind: str, times: int) -> None:
        for _ in range(times):
            self._run(self._store.abandon(attempt, "its gang broke", blameless=blameless, kind=kind))

    @rule(attempt=consumes(attempts))
    def die(self, attempt: Started) -> None:
        """Forget the attempt: its leader never calls again."""

    # What goes wrong

    @rule(really=SELDOM)
    def the_server_restarts(self, really: bool) -> None:
        if really:
            self.server.kill()
            self.server.start()

    def _expire_leases(self) -> None:
        # After a silence, such as a restart's, `take` leaves expired leases alone for the length of one more.
        self._raw.delete(Key.GRACE.full())
        for task_id in self._raw.zrange(Key.LEASES.full(), 0, -1):
            self._raw.zadd(Key.LEASES.full(), {task_id: 1})

    @rule(hours=st.sampled_from([-30.0, 30.0]))
    def a_client_has_a_wrong_clock(self, hours: float) -> None:
        with pytest.MonkeyPatch.context() as patch:
            now = time.time
            patch.setattr("app.tasks.store.time.time", lambda: now() + hours * 3600)
            for task_id in self._run(self._store.expired(again_seconds=0)):
                assert task_id in self._ends or TaskStatus(self._record(task_id)["status"]).ended

    # What must hold

    def _record(self, task_id: str) -> dict[str, str]:
        return dict(self._raw.hgetall(Key.TASK.full(task_id)))

    def _members(self, key: str) -> set[str]:
        return set(self._raw.zrange(key, 0, -1))

    @invariant()
    def every_accepted_task_is_there(self) -> None:
        records = {key.removeprefix(Key.TASK.full()) for key in self._raw.keys(Key.TASK.full("*"))}
        assert records == self._bodies.keys() == self._members(Key.TASKS.full())

    @invariant()
    def an_end_never_changes(self) -> None:
        for task_id in self._bodies:
            record = self._record(task_id)
            if TaskStatus(record["status"]).ended:
                ended = {name: record.get(name) for name in self.END}
                assert self._ends.setdefault(task_id, ended) == ended
            else:
                assert task_id not in self._ends
        for task_id, winner in self._winners.items():
            assert self._ends[task_id]["token"] == winner.token

    @invariant()
    def every_list_agrees_with_the_tasks(self) -> None:
        statuses = {task_id: TaskStatus(self._record(task_id)["status"]) for task_id in self._bodies}
        for status in TaskStatus:
            listed = self._members(Key.TASKS_BY_STATUS.full(status))
            assert listed == {task_id for task_id, own in statuses.items() if own is status}
        queue, leases = self._members(Key.QUEUE.full()), self._members(Key.LEASES.full())
        assert leases == self._members(Key.HELD_BY_CLUSTER.full(CLUSTER))
        assert not queue & leases
        unended = {task_id for task_id, status in statuses.items() if not status.ended}
        assert queue | leases == unended
        assert {task_id for task_id, status in statuses.items() if status is TaskStatus.RUNNING} <= leases
        assert self._members(Key.ENDED.full()) == statuses.keys() - unended

    @invariant()
    def no_task_dies_more_often_than_it_may(self) -> None:
        for task_id in self._bodies:
            record = self._record(task_id)
            assert int(record["deaths"]) <= MOST_DEATHS + TaskStatus(record["status"]).ended

    @invariant()
    def no_other_keys_are_left(self) -> None:
        names = {key.removeprefix(PREFIX) for key in self._raw.keys("*")}
        assert all(name.startswith(tuple(str(key) for key in Key)) for name in names)

    def _drain(self) -> None:
        """Whatever happened, gangs that work and nothing else end every task."""
        for _ in range(4 * len(self._bodies) + 1):
            self._expire_leases()
            taken = self._run(self._store.take(CLUSTER, "last"))
            if taken:
                started = self._run(self._store.start(taken[0], CLUSTER, "last", 4))
                assert isinstance(started, Started)
                assert self._run(self._store.succeed(started, "video.mp4"))
        for task_id in self._bodies:
            assert TaskStatus(self._record(task_id)["status"]).ended, task_id


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[type[Store]]:
    server = EmbeddedRedis(folder=tmp_path).start()
    yield type("StoreHere", (Store,), {"server": server})
    server.stop()


def check(machine: type[Store], examples: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            derandomize=True,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_whatever_happens_in_any_order_each_accepted_task_ends_once(machine: type[Store]) -> None:
    check(machine, examples=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "right", "wrong"),
    [
        ("finish", "if known ~= 'running' and not", "if false and not"),
        ("beat", "status_of_own(id, attempt, ARGV[3])", "redis.call('HGET', task, 'status')"),
        ("finish", "current == attempt and own == token", "current == attempt"),
        ("finish", "redis.call('ZADD', Key.ENDED, now() + ttl_ms, id)", ""),
    ],
)
def test_a_planted_mistake_is_found(
    machine: type[Store], monkeypatch: pytest.MonkeyPatch, script: str, right: str, wrong: str
) -> None:
    source = scripts.source

    def planted(name: str) -> str:
        text = source(name)
        if name != script:
            return text
        assert right in text
        return text.replace(right, wrong)

    monkeypatch.setattr(scripts, "source", planted)
    with pytest.raises(AssertionError):
        check(machine, examples=2000, phases=(Phase.generate,))
