"""How submitting and listing cost grow with the number of stored tasks."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median, quantiles
from typing import Any

import redis

from app.tasks.embedded import EmbeddedRedis
from app.tasks.store import TaskStatus, TaskStore
from testing.records import gang_state, task_config
from testing.waiting import until

SIZES = (100, 1_000, 10_000, 100_000)
RUNS = 200


def measure(server: EmbeddedRedis) -> list[dict[str, Any]]:
    """Milliseconds of each call, median and 99th percentile, at each number of stored tasks."""
    return asyncio.run(_measure(server))


async def _measure(server: EmbeddedRedis) -> list[dict[str, Any]]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        # Filling is not what is measured; the append-only file is written all the same.
        client.config_set("appendfsync", "no")
        store = TaskStore.connect(server.url, lease_seconds=15, task_ttl_seconds=3600, max_queued_tasks=10**9)
        await store.publish_gang(gang_state("gang", "bench"), serving=True, ttl_seconds=3600)
        rows, stored = [], 0
        for size in SIZES:
            while stored < size:
                batch = range(stored, min(stored + 500, size))
                await asyncio.gather(*(store.submit(f"t{number}", {}, _CONFIG) for number in batch))
                stored = batch.stop
            client.config_set("appendfsync", "always")
            # Filling makes the server rewrite its file in the background; that is no cost of a call.
            until("the file is rewritten", lambda: not client.info("persistence")["aof_rewrite_in_progress"], 120)
            rows.append({"stored tasks": size} | await _calls(store, size))
            stored += 2 * RUNS
            client.config_set("appendfsync", "no")
        await store.close()
        client.config_set("appendfsync", "always")
        client.flushall()
    return rows


_CONFIG = task_config()


async def _calls(store: TaskStore, size: int) -> dict[str, float]:
    async def run_one(number: int) -> None:
        taken = await store.take("bench", "dispatcher")
        assert taken is not None
        started = await store.start(taken[0], "bench", f"{size}-{number}", 4)
        await store.succeed(started, "video.mp4")  # type: ignore[arg-type]

    calls: dict[str, Callable[[int], Awaitable[Any]]] = {
        "submit": lambda number: store.submit(f"s{size}-{number}", {}, _CONFIG),
        "show": lambda number: store.get(f"s{size}-{number}"),
        "list 50": lambda _: store.page(TaskStatus.QUEUED),
        "take, start, finish": run_one,
        "cancel": lambda number: store.cancel(f"s{size}-{number}"),
    }
    figures: dict[str, float] = {}
    for name, call in calls.items():
        times = []
        for number in range(RUNS):
            began = time.perf_counter()
            await call(number)
            times.append(1000 * (time.perf_counter() - began))
        figures[f"{name}, ms"] = median(times)
        figures[f"{name}, p99"] = quantiles(times, n=100)[98]
    return figures
