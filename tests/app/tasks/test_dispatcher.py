"""The dispatcher against a real server: what it cannot deliver goes back, and its loops outlive every fault."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.tasks import dispatcher
from app.tasks.dispatcher import NOT_READY, Dispatcher
from app.tasks.embedded import EmbeddedRedis
from app.tasks.store import Started, StoreUnavailableError, TaskStore
from testing.records import gang_state, task_config
from testing.waiting import turn, until_async

CLUSTER = "this-cluster"


async def nothing(_: str, keep: str | None) -> None:
    """Forget a task that left nothing behind."""


async def complete() -> bool:
    return True


@asynccontextmanager
async def running(
    store: TaskStore,
    deliver: Callable[[dict[str, Any]], Awaitable[str]],
    forget: Callable[[str, str | None], Awaitable[None]] = nothing,
    *,
    keep_videos: bool = False,
) -> AsyncIterator[Dispatcher]:
    """Run a dispatcher beside one gang that serves."""
    await store.publish_gang(gang_state("gang", CLUSTER), serving=True, ttl_seconds=60)
    one = Dispatcher(
        store,
        cluster=CLUSTER,
        name="one",
        deliver=deliver,
        complete=complete,
        delete_files=forget,
        lease_seconds=1,
        keep_videos=keep_videos,
    )
    try:
        yield one
    finally:
        await one.close()


async def do(store: TaskStore, task_id: str) -> str:
    """Do a task as a leader does, and reply as it does."""
    started = await store.start(task_id, CLUSTER, "leader", 1)
    assert isinstance(started, Started), started
    assert await store.succeed(started, "video")
    return "succeeded"


async def test_a_delivery_that_fails_gives_its_task_back_and_costs_no_attempt(store: TaskStore) -> None:
    delivered: list[str] = []

    async def deliver(config: dict[str, Any]) -> str:
        delivered.append(config["task_id"])
        if len(delivered) == 1:
            raise RuntimeError("the replica died before it began")
        return await do(store, config["task_id"])

    await store.submit("first", {}, task_config())
    await store.submit("second", {}, task_config())
    async with running(store, deliver):

        async def ended() -> list[Any] | None:
            tasks = [await store.get(name) for name in ("first", "second")]
            return tasks if all(task and task.status.ended for task in tasks) else None

        tasks = await until_async("both are done", ended)
    assert delivered == ["first", "first", "second"], "it went back to its old place in the queue"
    assert [task.attempt for task in tasks] == [1, 1]


async def test_a_delivery_that_fails_after_a_leader_began_leaves_the_task_to_its_lease(store: TaskStore) -> None:
    begun: list[Started] = []

    async def deliver(config: dict[str, Any]) -> str:
        started = await store.start(config["task_id"], CLUSTER, "leader", 1)
        assert isinstance(started, Started), started
        begun.append(started)
        raise RuntimeError("the connection broke")

    await store.submit("task", {}, task_config())
    async with running(store, deliver) as one:

        async def over() -> bool:
            return bool(begun) and not one._deliveries

        await until_async("the delivery failed", over)
        assert await store.beat(begun[0], 1) == "ok"
        assert await store.succeed(begun[0], "video")
    assert len(begun) == 1


async def test_tasks_are_taken_again_when_redis_is_back(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path).start()
    store = TaskStore.connect(server.url, lease_seconds=1, task_ttl_seconds=60, max_queued_tasks=50)
    delivered: list[str] = []

    async def deliver(config: dict[str, Any]) -> str:
        delivered.append(config["task_id"])
        return await do(store, config["task_id"])

    try:
        async with running(store, deliver):
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await store.ping()
            server.start()
            await store.submit("afterwards", {}, task_config())

            async def done() -> bool:
                task = await store.get("afterwards")
                return task is not None and task.status.ended

            await until_async("it is done", done)
    finally:
        await store.close()
        server.stop()
    assert delivered == ["afterwards"]


async def test_files_that_cannot_be_deleted_do_not_end_the_purge(
    redis_server: EmbeddedRedis, store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_PURGE_SECONDS", 0.01)
    short = TaskStore.connect(redis_server.url, lease_seconds=1, task_ttl_seconds=0.05, max_queued_tasks=50)
    forgotten: list[str] = []

    async def forget(task_id: str, keep: str | None) -> None:
        assert keep is None
        forgotten.append(task_id)
        if len(forgotten) == 1:
            raise OSError("read-only file system")

    async def deliver(config: dict[str, Any]) -> str:
        return await do(short, config["task_id"])

    async with running(short, deliver, forget):
        for name in ("stuck", "next"):
            await short.submit(name, {}, task_config())

            async def gone(name: str = name) -> bool:
                return name in forgotten

            await until_async(f"{name} is forgotten", gone)
        assert await short.get("stuck") is not None, "its record still says which files are left"
    await short.close()
    assert forgotten == ["stuck", "next"]


async def test_a_video_can_outlive_its_task(
    redis_server: EmbeddedRedis, store: TaskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "_PURGE_SECONDS", 0.01)
    short = TaskStore.connect(redis_server.url, lease_seconds=1, task_ttl_seconds=0.05, max_queued_tasks=50)
    kept: dict[str, str | None] = {}

    async def forget(task_id: str, keep: str | None) -> None:
        kept[task_id] = keep

    async def deliver(config: dict[str, Any]) -> str:
        return await do(short, config["task_id"])

    async with running(short, deliver, forget, keep_videos=True):
        await short.submit("done", {}, task_config())

        async def gone() -> bool:
            return "done" in kept and await short.get("done") is None

        await until_async("its record is gone", gone)
    await short.close()
    assert kept == {"done": "video"}


async def test_a_gang_that_is_not_ready_is_asked_again_at_once_and_costs_nothing(store: TaskStore) -> None:
    replies = [NOT_READY, NOT_READY]

    async def deliver(config: dict[str, Any]) -> str:
        return replies.pop() if replies else await do(store, config["task_id"])

    await store.submit("task", {}, task_config())
    async with running(store, deliver):

        async def done() -> Any:
            task = await store.get("task")
            return task if task and task.status.ended else None

        task = await until_async("another gang did it", done)
    assert task.attempt == 1


async def test_a_loop_that_has_ended_is_unhealthy(store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deliver(config: dict[str, Any]) -> str:
        return await do(store, config["task_id"])

    async def wakeups() -> AsyncIterator[None]:
        raise LookupError("nobody foresaw this")
        yield

    monkeypatch.setattr(store, "wakeups", wakeups)
    async with running(store, deliver) as one:

        async def reported() -> str:
            try:
                one.check()
            except RuntimeError as error:
                return str(error)
            return ""

        assert "nobody foresaw this" in await until_async("the loop's end is reported", reported)


@pytest.mark.parametrize("ticks", [0, 1])
async def test_a_loop_that_is_woken_and_cancelled_at_once_ends(ticks: int) -> None:
    event = asyncio.Event()
    loop = asyncio.create_task(dispatcher._wait(event, 30))
    await turn()
    event.set()
    for _ in range(ticks):
        await turn()
    if loop.cancel():
        with pytest.raises(asyncio.CancelledError):
            await loop
