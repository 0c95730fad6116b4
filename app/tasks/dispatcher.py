"""Takes tasks from the store and brings each to a gang; every APIEntrypoint replica has one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from app.tasks.store import StoreUnavailableError, TaskStore

_log = logging.getLogger(__name__)

_EPOCH_TTL_SECONDS = 10.0
_PURGE_SECONDS = 60.0
_PAUSES = (0.02, 0.02, 0.05, 0.1, 0.2, 0.4)
"""Seconds between the tries to bring one task to a gang; in all less than the shortest hold."""

NOT_READY = "not_ready"
"""The reply of a gang that cannot start a task now."""


class Dispatcher:
    """Moves tasks from the queue to gangs that are free.

    Args:
        store: the tasks.
        cluster: the Ray cluster whose gangs these are.
        name: this dispatcher among all.
        deliver: runs a task on a gang and returns at its end.
        complete: whether every gang of the release is up; asked until it has its epoch.
        forget: called with the id of every task whose time is over.
        lease_seconds: how long a task that was taken is held.
    """

    def __init__(
        self,
        store: TaskStore,
        *,
        cluster: str,
        name: str,
        deliver: Callable[[dict[str, Any]], Awaitable[Any]],
        complete: Callable[[], Awaitable[bool]],
        forget: Callable[[str], Awaitable[None]],
        lease_seconds: float,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._name = name
        self._deliver = deliver
        self._complete = complete
        self._forget = forget
        # Often enough that a lease which ran out is noticed, and that the store never takes us for away.
        self._poll_seconds = min(1.0, lease_seconds / 6)
        self._wake = asyncio.Event()
        self._deliveries: set[asyncio.Task[None]] = set()
        self._loops = [
            asyncio.create_task(loop()) for loop in (self._take_forever, self._listen, self._keep_alive, self._purge)
        ]

    async def close(self) -> None:
        for task in (*self._loops, *self._deliveries):
            task.cancel()
        await asyncio.gather(*self._loops, *self._deliveries, return_exceptions=True)

    async def _take_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                while taken := await self._store.take(self._cluster, self._name):
                    delivery = asyncio.create_task(self._bring(*taken))
                    self._deliveries.add(delivery)
                    delivery.add_done_callback(self._deliveries.discard)
            except StoreUnavailableError as error:
                _log.warning("no tasks can be taken: %s", error)
            await _wait(self._wake, self._poll_seconds)

    async def _bring(self, task_id: str, config: dict[str, Any]) -> None:
        try:
            # Serve chooses the gang. One that has just broken answers at once, and the next call finds another.
            for pause in _PAUSES:
                reply = await self._deliver({"task_id": task_id, **config})
                if reply["status"] != NOT_READY:
                    return
                await asyncio.sleep(pause)
            await self._store.give_back(task_id, self._name)
        except Exception as error:
            # The call is lost, not the task: if a leader had begun it, its lease decides what comes next.
            _log.warning("task %s: the call of a gang failed: %s", task_id, _first_line(error))
            try:
                await self._store.give_back(task_id, self._name)
            except StoreUnavailableError:
                _log.warning("task %s could not be given back; its hold will run out", task_id)

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in self._store.wakeups():
                    self._wake.set()
            except StoreUnavailableError:
                await asyncio.sleep(self._poll_seconds)

    async def _keep_alive(self) -> None:
        """Keep this release the one that takes tasks; give it its turn once it is complete."""
        epoch = 0
        while True:
            try:
                complete = bool(epoch) or await self._complete()
                epoch = await self._store.keep_epoch(self._cluster, complete=complete, ttl_seconds=_EPOCH_TTL_SECONDS)
            except StoreUnavailableError as error:
                _log.warning("the release could not say that it lives: %s", error)
            await asyncio.sleep(_EPOCH_TTL_SECONDS / 5 if epoch else 1.0)

    async def _purge(self) -> None:
        while True:
            try:
                for task_id in await self._store.purge():
                    await self._forget(task_id)
            except StoreUnavailableError:
                _log.warning("old tasks could not be forgotten now")
            except Exception as error:
                # Whatever it is, this loop must live: nobody else forgets old tasks.
                _log.warning("files of an old task remain: %s", error)
            await asyncio.sleep(_PURGE_SECONDS)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
