"""The queue of objects to look at."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wan22_operator.work_queue import Key, Work, WorkQueue

from testing.waiting import turn, until_async

KEY: Key = ("RayService", "ns", "a")


@asynccontextmanager
async def running(work: Work, **options: float) -> AsyncIterator[WorkQueue]:
    queue = WorkQueue(work, **options)  # type: ignore[arg-type]
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_object_is_looked_at_by_one_at_a_time_and_again_after_a_change() -> None:
    at_once, looks, done = 0, 0, asyncio.Event()

    async def work(key: Key) -> None:
        nonlocal at_once, looks
        at_once += 1
        assert at_once == 1
        looks += 1
        if looks == 1:
            for _ in range(20):
                queue.add(key)
        await turn()
        at_once -= 1
        if looks == 2:
            done.set()

    async with running(work) as queue:
        queue.add(KEY)
        async with asyncio.timeout(5):
            await done.wait()
    assert looks == 2


async def test_an_error_is_tried_again_later_and_holds_up_no_other() -> None:
    seen: list[str] = []
    done = asyncio.Event()

    async def work(key: Key) -> None:
        seen.append(key[2])
        if key[2] == "bad" and seen.count("bad") == 1:
            raise RuntimeError("no")
        if seen.count("bad") == 2:
            done.set()

    async with running(work, longest_backoff=0.01) as queue:
        queue.add(("RayService", "ns", "bad"))
        queue.add(("RayService", "ns", "good"))
        async with asyncio.timeout(5):
            await done.wait()
    assert seen == ["bad", "good", "bad"]


async def test_a_sooner_time_replaces_a_later_one() -> None:
    looked = asyncio.Event()

    async def work(_: Key) -> None:
        looked.set()

    async with running(work) as queue:
        queue.add(KEY, after=1000)
        queue.add(KEY, after=0.01)
        async with asyncio.timeout(5):
            await looked.wait()


async def test_no_more_objects_at_once_than_allowed() -> None:
    running_now, most, left, done = 0, 0, 20, asyncio.Event()

    async def work(_: Key) -> None:
        nonlocal running_now, most, left
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.001)
        running_now -= 1
        left -= 1
        if not left:
            done.set()

    async with running(work, at_once=3) as queue:
        for number in range(20):
            queue.add(("RayService", "ns", str(number)))
        async with asyncio.timeout(5):
            await done.wait()
    assert most == 3


async def test_a_change_goes_ahead_of_a_hundred_objects_that_do_not_answer() -> None:
    began: list[str] = []

    async def work(key: Key) -> float | None:
        began.append(key[2])
        await asyncio.Event().wait()
        return None

    narrow = WorkQueue(work, at_once=1)
    for number in range(100):
        narrow.add((*KEY[:2], f"silent-{number}"))
    narrow.add((*KEY[:2], "changed"), first=True)
    wide = WorkQueue(work)
    for number in range(100):
        wide.add((*KEY[:2], f"slow-{number}"))
    running = [asyncio.create_task(queue.run()) for queue in (narrow, wide)]

    def slow() -> int:
        return sum(name.startswith("slow-") for name in began)

    async def all_began() -> bool:
        return slow() >= 100 and len(began) > slow()

    await until_async("all slow objects and one of the others began", all_began)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert [name for name in began if not name.startswith("slow-")] == ["changed"]
    assert slow() == 100
