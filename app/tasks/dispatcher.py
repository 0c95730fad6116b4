"""Takes tasks from the store and sends each to a gang; every APIEntrypoint replica has one dispatcher."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from app.tasks.store import StoreUnavailableError, TaskStore
from app.text import first_line

_log = logging.getLogger(__name__)

_EPOCH_TTL_SECONDS = 10.0
_PURGE_SECONDS = 60.0
_PAUSES = (0.02, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between the tries to bring one task to a gang; in all less than the shortest hold."""

NOT_READY = "not_ready"
"""The reply of a gang that cannot start a task now."""


class Dispatcher:
    """Moves tasks from the queue to free gangs.

    Args:
        store: the tasks.
        cluster: the Ray cluster of the gangs.
        name: a name that no other dispatcher has.
        deliver: runs a task on a gang and returns when the task ends.
        complete: returns whether every gang of the release is up; called until the release has its epoch.
        delete_files: deletes the files of the task with this id, but for one path if that is given.
        keep_videos: whether the video of a task outlives its record.
        lease_seconds: how long a task that was taken is held.
    """

    def __init__(
        self,
        store: TaskStore,
        *,
        cluster: str,
        name: str,
        deliver: Callable[[dict[str, Any]], Awaitable[str]],
        complete: Callable[[], Awaitable[bool]],
        delete_files: Callable[[str, str | None], Awaitable[None]],
        lease_seconds: float,
        keep_videos: bool = False,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._name = name
        self._deliver = deliver
        self._complete = complete
        self._delete_files = delete_files
        self._keep_videos = keep_videos
        # Often enough to reclaim expired leases soon, and more often than the silence limit of take.lua (half a lease).
        self._poll_seconds = min(1.0, lease_seconds / 6)
        self._wake = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._loops = [
            asyncio.create_task(loop()) for loop in (self._take_forever, self._listen, self._keep_alive, self._purge)
        ]

    def check(self) -> None:
        """Raise if a loop has ended: without it tasks would wait for ever behind a healthy replica.

        Raises:
            RuntimeError: a loop has ended; its error is the cause.
        """
        for loop in self._loops:
            if loop.done():
                cause = None if loop.cancelled() else loop.exception()
                raise RuntimeError(f"a loop of the dispatcher has ended: {cause!r}") from cause

    async def close(self) -> None:
        """End all loops and calls; tasks that a leader runs go on."""
        running = {task for task in (*self._loops, *self._deliveries) if not task.done()}
        while running:
            # Again and again: redis-py (8.1) loses a cancellation that comes in the middle of a call.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=0.5)

    async def _take_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                while taken := await self._store.take(self._cluster, self._name):
                    delivery = asyncio.create_task(self._send(*taken))
                    self._deliveries.add(delivery)
                    delivery.add_done_callback(self._deliveries.discard)
            except StoreUnavailableError as error:
                _log.warning("no tasks can be taken: %s", error)
            except Exception:
                # One record that cannot be read must not end the loop that takes all the others.
                _log.exception("a task could not be taken")
            await _wait(self._wake, self._poll_seconds)

    async def _send(self, task_id: str, config: dict[str, Any]) -> None:
        try:
            # Serve chooses the gang. One that has just broken answers at once, and the next call finds another.
            for pause in _PAUSES:
                if await self._deliver({"task_id": task_id, **config}) != NOT_READY:
                    return
                await asyncio.sleep(pause)
            await self._store.give_back(task_id, self._name)
        except Exception as error:
            # Only the call is lost. If a leader has started the task, the lease decides whether it is started again.
            _log.warning("task %s: calling a gang failed: %s: %s", task_id, type(error).__name__, first_line(error))
            try:
                await self._store.give_back(task_id, self._name)
            except StoreUnavailableError:
                _log.warning("task %s could not be given back; its lease will expire", task_id)

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in self._store.wakeups():
                    self._wake.set()
            except StoreUnavailableError:
                await asyncio.sleep(self._poll_seconds)

    async def _keep_alive(self) -> None:
        """Keep this release alive in the store; once it is complete, it gets its epoch and takes tasks."""
        epoch = 0
        while True:
            try:
                complete = bool(epoch) or await self._complete()
                epoch = await self._store.keep_epoch(self._cluster, complete=complete, ttl_seconds=_EPOCH_TTL_SECONDS)
            except StoreUnavailableError as error:
                _log.warning("the store could not be told that this release is alive: %s", error)
            await asyncio.sleep(_EPOCH_TTL_SECONDS / 5 if epoch else 1.0)

    async def _purge(self) -> None:
        """Delete old tasks, their files first: a record that is gone could tell nobody which files are left."""
        while True:
            try:
                while task_ids := await self._store.expired():
                    for task_id in task_ids:
                        try:
                            task = await self._store.get(task_id) if self._keep_videos else None
                            await self._delete_files(task_id, task.video if task else None)
                        except Exception as error:
                            # Each storage has its own errors; whatever it is, the other tasks' files can still go.
                            _log.warning("task %s: its files are deleted later: %s", task_id, first_line(error))
                        else:
                            await self._store.forget(task_id)
            except StoreUnavailableError as error:
                _log.warning("old tasks are deleted later: %s", error)
            await asyncio.sleep(_PURGE_SECONDS)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    # Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that arrives together with the event, and then
    # `close` would wait forever for a loop that goes on.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
