"""A queue of objects to look at: each at most once at a time, again after a while, later after errors."""

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable

from wan22_operator import metrics

Key = tuple[str, str, str]
Work = Callable[[Key], Awaitable[float | None]]

log = logging.getLogger(__name__)


class WorkQueue:
    """Calls ``work(key)`` for every key that is due; what it returns is when to call it again, None for not."""

    def __init__(self, work: Work, *, at_once: int = 8, longest_backoff: float = 60) -> None:
        self._work = work
        self._at_once = at_once
        self._longest_backoff = longest_backoff
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key, after: float = 0) -> None:
        """Have ``key`` looked at in ``after`` seconds, or sooner if that was planned."""
        due = asyncio.get_running_loop().time() + after
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._wake.set()
            metrics.QUEUED.set(len(self._due))

    def clear(self) -> None:
        """Forget everything that is not being looked at."""
        self._due.clear()
        self._heap.clear()
        self._failures.clear()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wake.clear()
                pause = self._start_what_is_due()
                try:
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            running = list(self._running.values())
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _start_what_is_due(self) -> float | None:
        """Start every key whose time has come, and return how long the next one has."""
        now = asyncio.get_running_loop().time()
        postponed = []
        pause = None
        while self._heap and len(self._running) < self._at_once:
            due, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)
            elif due > now:
                pause = due - now
                break
            elif key in self._running:
                postponed.append(heapq.heappop(self._heap))
            else:
                heapq.heappop(self._heap)
                del self._due[key]
                self._running[key] = asyncio.create_task(self._look_at(key))
        for entry in postponed:
            heapq.heappush(self._heap, entry)
        return pause

    async def _look_at(self, key: Key) -> None:
        try:
            again = await self._work(key)
            self._failures.pop(key, None)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            again = min(self._longest_backoff, 0.5 * 2 ** min(failures, 10)) * random.uniform(0.8, 1.2)
            log.warning("%s %s/%s: %s; trying again in %.1f s", *key, error or repr(error), again)
        finally:
            del self._running[key]
            self._wake.set()
        if again is not None:
            self.add(key, again)
