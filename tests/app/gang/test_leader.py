"""The leader's heartbeat on a real store; whole leaders run in tests/service."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from app.config import AppArgs
from app.gang import leader, placement
from app.gang.gang import Gang, Member, RankSettings, Timeouts
from app.gang.leader import VideoGenerator, _Heartbeat, _overdue, _refusal
from app.gang.placement import Slot
from app.gang.rank import RankPlace
from app.gang.supervisor import GangSupervisor
from app.tasks.store import Started, TaskStore
from testing.records import task_config
from testing.waiting import until_async


class RecordingGang:
    """Stands for a gang at its third step; it notes what it is asked to stop."""

    step = 3

    def __init__(self) -> None:
        self.stopped: list[str] = []

    def cancel(self, path: str) -> None:
        self.stopped.append(path)


async def begun(store: TaskStore) -> Started:
    await store.submit("a", {}, task_config())
    started = await store.start("a", "here", "leader", 4)
    assert isinstance(started, Started)
    return started


def heartbeat(store: TaskStore, gang: RecordingGang, started: Started, seconds: float) -> _Heartbeat:
    args = AppArgs(lease_seconds=0.1, max_task_seconds=seconds)
    return _Heartbeat(store, cast(Gang, gang), started, "a/1.mp4", args)


async def test_a_task_that_takes_too_long_is_stopped(store: TaskStore) -> None:
    gang = RecordingGang()
    async with heartbeat(store, gang, await begun(store), seconds=0.001) as beat:

        async def stopped() -> bool:
            return beat.stopped

        await until_async("it is asked to stop", stopped)
    assert (beat.overdue, beat.lost) == (True, False)
    assert gang.stopped[0] == "a/1.mp4"


async def test_a_task_within_its_time_goes_on_and_shows_its_step(store: TaskStore) -> None:
    gang = RecordingGang()
    async with heartbeat(store, gang, await begun(store), seconds=60) as beat:

        async def shown() -> bool:
            task = await store.get("a")
            return task is not None and task.step == 3

        await until_async("the step is shown", shown)
    assert (beat.stopped, gang.stopped) == (False, [])


async def test_a_task_for_another_model_is_refused_by_both_names(store: TaskStore) -> None:
    for task_id, model in (("a", "Wan-AI/one"), ("b", None)):
        await store.submit(task_id, {}, task_config(), model=model)
    accepted, older = [await store.start(task_id, "here", "leader", 4) for task_id in ("a", "b")]
    assert isinstance(accepted, Started)
    assert isinstance(older, Started)
    refusal = _refusal(accepted, "Wan-AI/two")
    assert refusal is not None
    assert refusal.code == "other_model"
    assert "'Wan-AI/one'" in refusal.message
    assert "'Wan-AI/two'" in refusal.message
    assert _refusal(accepted, "Wan-AI/one") is None
    assert _refusal(older, "Wan-AI/two") is None, "an older release named no model"
    again = await store.start("a", "here", "leader", 4)
    assert again == accepted


@pytest.mark.parametrize(
    ("problem", "code"), [("", "too_long"), ("s3://videos does not store a/1.mp4: ...", "storage_away")]
)
def test_a_task_that_ran_out_of_time_fails_as_what_it_waited_for(problem: str, code: str) -> None:
    error = _overdue(7200, problem)
    assert error.code == code
    assert "max_task_seconds (7200)" in error.message
    assert problem in error.message


async def test_a_silent_head_delays_a_resize_and_neither_reports_nor_leases(
    store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, speaks = threading.Event(), threading.Event()

    def silent(*_: object, **__: object) -> None:
        asked.set()
        speaks.wait(60)
        raise ConnectionError("the head is gone")

    monkeypatch.setattr(placement, "placement_group", silent)
    monkeypatch.setattr(leader, "_PUBLISH_SECONDS", 0.1)
    own = Slot(cast(Any, None), "home", is_leaders=True)
    gang = Gang(RankSettings("m", "s", "cpu", 0.5), Timeouts(1, 1, 1))
    gang.members = [Member(cast(Any, None), own, RankPlace("home", "10.0.0.1", 1), "native")]
    supervisor = GangSupervisor(gang, store, own, heads=4, timeout_seconds=60)
    supervisor.record(2)
    # Stands for a leader, which only Serve can make.
    reporting = SimpleNamespace(
        _supervisor=supervisor,
        _store=store,
        _id="gang",
        _cluster="here",
        _task_id="a",
        _storage_problem="",
        _ready=True,
    )
    async with supervisor.turn, heartbeat(store, cast(Any, gang), await begun(store), seconds=60):
        publish = asyncio.create_task(VideoGenerator._publish(cast(Any, reporting)))
        resize = asyncio.create_task(supervisor.run())
        try:
            assert await asyncio.to_thread(asked.wait, 30)
            for step in range(1, 8):
                gang.step = step

                async def beaten(step: int = step) -> bool:
                    task = await store.get("a")
                    return task is not None and task.step == step

                await until_async("the heartbeat shows the step", beaten, seconds=1)
                supervisor.refuse(f"after step {step}")

                async def published(step: int = step) -> bool:
                    return [one.message for one in await store.gangs("here")] == [f"after step {step}"]

                await until_async("the gang reports", published, seconds=1)
        finally:
            speaks.set()
            publish.cancel()
            resize.cancel()
            await asyncio.gather(publish, resize, return_exceptions=True)
