"""A queue of objects to reconcile: each in one task at a time, again after a while, later and later after errors."""

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable

from wan22_operator import metrics

Key = tuple[str, str, str]
"""Kind, namespace and name."""
Work = Callable[[Key], Awaitable[float | None]]
"""Processes one object and returns the seconds until it is due again; None if it is not."""

log = logging.getLogger(__name__)


class WorkQueue:
    """Calls ``work(key)`` for every key that is due, for at most ``at_once`` keys at a time."""

    def __init__(self, work: Work, *, at_once: int = 256, longest_backoff: float = 60) -> None:
        self._work = work
        self._at_once = at_once
        self._longest_backoff = longest_backoff
        # The time at which each waiting key is due. The heap may also hold later times for a key; they are void.
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        # A key that is added while its task runs stays in the heap until the task ends.
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key, after: float = 0, *, first: bool = False) -> None:
        """Have ``key`` processed in ``after`` seconds, or sooner if it is due sooner already.

        A key that is added ``first``, because its object changed, goes ahead of all that are only due again.
        """
        due = float("-inf") if first else asyncio.get_running_loop().time() + after
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, key))
            self._wake.set()
            metrics.QUEUED.set(len(self._due))

    def clear(self) -> None:
        """Forget every key whose task is not running."""
        self._due.clear()
        self._heap.clear()
        self._failures.clear()

    async def run(self) -> None:
        """Process keys until cancelled."""
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
        """Start the keys whose time has come, as far as ``at_once`` allows.

        Return the seconds until the next key is due; None if only ``add`` or the end of a running key changes anything.
        """
        now = asyncio.get_running_loop().time()
        held_back: list[tuple[float, Key]] = []
        pause = None
        while len(self._running) < self._at_once and (entry := self._earliest()):
            due, key = entry
            if due > now:
                pause = due - now
                break
            heapq.heappop(self._heap)
            if key in self._running:
                held_back.append(entry)
            else:
                del self._due[key]
                self._running[key] = asyncio.create_task(self._process(key))
        for entry in held_back:
            heapq.heappush(self._heap, entry)
        return pause

    def _earliest(self) -> tuple[float, Key] | None:
        """Return the heap's earliest entry; drop those that a sooner time for the same key has replaced."""
        while self._heap:
            due, key = self._heap[0]
            if self._due.get(key) == due:
                return due, key
            heapq.heappop(self._heap)
        return None

    async def _process(self, key: Key) -> None:
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
