"""Brings a gang to its wanted size, and back to life, while the leader goes on answering."""

import asyncio
import logging
import time
from typing import Any

import ray

from app.config import ConfigError
from app.gang import placement
from app.gang.gang import Gang, GangBrokenError, Member, node_by_node
from app.gang.placement import Slot
from app.plan import NoPlanError, gang_plan, largest_planned_count
from app.tasks.store import StoreUnavailableError, TaskStore

_log = logging.getLogger(__name__)

_START_PATIENCE_SECONDS = 10.0
"""How long a starting gang waits for all of its room before it starts with less."""
_MOST_FAILURES = 3
_LOOK_SECONDS = 2.0
_COMPACT_SECONDS = 10.0
_LONGEST_BACKOFF_SECONDS = 60.0


class _UnmetError(Exception):
    """The wanted size cannot be had now; the gang stays as it is."""


class Resizer:
    """Owns the size of one gang: what is wanted, what is there, and the steps between.

    Args:
        gang: the gang, empty at first.
        store: for the lock under which gangs reserve room one after the other.
        own_slot: the room beside the leader, which is rank 0's.
        heads: attention heads of the model, which limit the counts.
        timeout_seconds: how long a resize waits for room.
    """

    def __init__(self, gang: Gang, store: TaskStore, own_slot: Slot, heads: int, timeout_seconds: float) -> None:
        self.gang = gang
        self.turn = asyncio.Lock()
        """Held by whoever uses the process group: a task, or a step that changes it."""
        self._store = store
        self._heads = heads
        self._timeout = timeout_seconds
        self._slots = [own_slot]
        self._wanted = 0
        self._target = 0
        self._refusal = ""
        self._message = ""
        self._resizing = False
        self._warm = True
        self._failures = 0
        self._backoff = 0.0
        self._not_before = 0.0
        self._compact_at = 0.0
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

    # What the leader tells and asks

    def record(self, wanted: int) -> None:
        """Note the wanted count; ``run`` works towards it.

        Raises:
            ConfigError: at the first call, if the count has no plan. Later such a count is refused instead.
        """
        self._wanted = wanted
        try:
            gang_plan(wanted, self._heads)
        except NoPlanError as error:
            if not self._target:
                raise ConfigError(f"total_workers: {error}") from None
            self.refuse(f"total_workers: {error}; the gang keeps {len(self.gang.members)} ranks")
            return
        self._target, self._refusal, self._message = wanted, "", ""
        self._backoff = self._not_before = 0.0
        self._nudge()

    def refuse(self, message: str) -> None:
        """Leave the gang as it is and say why."""
        _log.warning("%s", message)
        self._refusal = message
        self._changed.set()

    def broken(self, reason: str) -> None:
        """End a gang that cannot work any more; ``run`` starts its ranks anew in the same places."""
        if self.gang.members:
            _log.error("the gang broke and starts again: %s", reason)
            self._slots = self.gang.kill()
            self._message = f"starting again: {reason}"
            self._nudge()

    def require_gang(self) -> None:
        if not self.serving:
            raise GangBrokenError(f"the gang is not ready: {self._message or 'it is starting'}")

    def check(self) -> None:
        """Raise once the gang has failed to come back too often."""
        if self._failures >= _MOST_FAILURES:
            raise GangBrokenError(f"the gang could not be formed {self._failures} times; {self._message}")

    @property
    def serving(self) -> bool:
        return bool(self.gang.members) and self._warm

    def state(self) -> dict[str, Any]:
        """Return the gang as ``/readyz`` shows it."""
        return {
            "wanted": self._wanted,
            "have": len(self.gang.members),
            "phase": self._phase(),
            "message": self._refusal or self._message,
            "nodes": _nodes(self.gang),
        }

    def announce(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()

    async def changed(self, seconds: float) -> None:
        """Return when the state changed, or after ``seconds``."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return
        self._changed.clear()

    # What the resizer does

    async def assemble(self) -> None:
        """Form the gang from nothing: all that is wanted, or the largest planned count for which there is room.

        Raises:
            ConfigError: a rank cannot use the model or its device.
            GangBrokenError: a rank died, or the ranks could not join. All are ended, their room is kept.
        """
        async with self.turn:
            alive = placement.live_nodes()
            for slot in [slot for slot in self._slots if slot.node_id not in alive and not slot.is_leaders]:
                slot.release()
                self._slots.remove(slot)
            missing = self._target - len(self._slots)
            if missing > 0:
                self._slots += await self._reserve(missing, _START_PATIENCE_SECONDS, partly=True)
            count = largest_planned_count(min(len(self._slots), self._target), self._heads)
            placement.release(self._slots[count:])
            self._slots = self._slots[:count]
            members: list[Member] = []
            try:
                members = await self.gang.start_ranks(self._slots, count)
                self._warm = False
                await self.gang.form(members)
                await self.gang.warm_up()
            except BaseException:
                self._end(members)
                raise
            finally:
                self._warm = True
            self._failures = 0
            self._message = ""
            if count < self._target:
                self._message = f"there is room for {count} of {self._target} ranks; trying again for all"
                self._back_off()
            _log.info("formed %d of %d ranks", count, self._target)
            self._changed.set()

    async def run(self) -> None:
        """Work towards the wanted size, for ever."""
        while True:
            await self._wait()
            try:
                await self._step()
            except (_UnmetError, NoPlanError) as unmet:
                self._message = f"{unmet}; trying again"
                self._back_off()
            except (GangBrokenError, ConfigError) as error:
                self._failures += 1
                self._message = str(error)
                self._back_off()
                _log.error("the gang failed: %s", error)
            except Exception:
                _log.exception("the resizer failed; it goes on")
                self._back_off()
            finally:
                self._resizing = False
                self._changed.set()

    async def renew(self) -> None:
        """Begin a new process group with the same ranks, after a task failed in the old one. Call it with ``turn``."""
        try:
            await self.gang.form(self.gang.members)
        except GangBrokenError as error:
            self.broken(str(error))

    async def _step(self) -> None:
        if not self.gang.members:
            await self.assemble()
        elif len(self.gang.members) != self._target:
            await self._resize(self._target)
        elif not self.turn.locked():
            await self._look()
            if time.monotonic() >= self._compact_at and self._stands_apart():
                self._compact_at = time.monotonic() + _COMPACT_SECONDS
                await self._compact()

    async def _resize(self, target: int) -> None:
        self._resizing = True
        self._changed.set()
        missing = target - len(self.gang.members)
        new: list[Member] = []
        if missing > 0:
            slots = await self._reserve(missing, self._timeout, partly=False)
            if not slots and (self._target != target or not self.gang.members):
                return
            if not slots:
                raise _UnmetError(f"no room for {missing} more ranks within {self._timeout:g} s")
            new = await self._start(slots)
        await self._regroup(new, lambda members: node_by_node(members)[:target], target)

    async def _compact(self) -> None:
        """Move the ranks of the gang's last node to its other nodes, if there is room now."""
        ordered = node_by_node(self.gang.members)
        last = ordered[-1].place.node_id
        leaving = [member for member in ordered if member.place.node_id == last]
        near = [node for node in _in_order(ordered) if node != last]
        slots = await placement.reserve(self.gang.settings.bundle(), len(leaving), near, elsewhere=False)
        if len(slots) < len(leaving):
            placement.release(slots)
            return
        new = await self._start(slots)
        await self._regroup(
            new, lambda members: [one for one in members if one.place.node_id != last], len(self.gang.members)
        )

    async def _regroup(self, new: list[Member], choose: Any, target: int) -> None:
        """At the end of the running task, make the chosen ones of the old and ``new`` members the gang."""
        async with self.turn:
            if not self.gang.members or self._target != target:
                self.gang.drop(new)
                return
            members = [*self.gang.members, *new]
            keep = choose(members)
            leave = [member for member in members if member not in keep]
            try:
                await self.gang.form(keep)
            except GangBrokenError as error:
                self._slots = [member.slot for member in keep]
                self._end(members)
                self.gang.drop(leave)
                self._message = f"starting again: {error}"
                raise
            self.gang.drop(leave)
            self._message = ""
            self._backoff = 0.0
            self._failures = 0
            _log.info("the gang has %d ranks", len(keep))

    async def _start(self, slots: list[Slot]) -> list[Member]:
        try:
            return await self.gang.start_ranks(slots, self._target)
        except (GangBrokenError, ConfigError) as error:
            placement.release(slots)
            raise _UnmetError(f"{len(slots)} new ranks did not start: {error}") from None

    async def _reserve(self, count: int, seconds: float, *, partly: bool) -> list[Slot]:
        """Reserve ``count`` slots within ``seconds``; none, or where ``partly`` what there was at the end, if fewer.

        Nothing is held while it waits, so two gangs that grow never each hold half of what one needs.
        """
        deadline = time.monotonic() + seconds
        target = self._target
        had_gang = bool(self.gang.members)
        near = _in_order(node_by_node(self.gang.members)) or [slot.node_id for slot in self._slots[:1]]
        while True:
            slots = await self._reserve_now(count, near)
            late = time.monotonic() >= deadline
            if len(slots) == count or (late and partly):
                return slots
            placement.release(slots)
            if had_gang and not self.turn.locked():
                await self._look()
            if late or self._target != target or (had_gang and not self.gang.members):
                return []
            await asyncio.sleep(0.5)

    async def _reserve_now(self, count: int, near: list[str]) -> list[Slot]:
        bundle = self.gang.settings.bundle()
        try:
            async with self._store.lock("placement", hold_seconds=120, wait_seconds=30):
                return await placement.reserve(bundle, count, near)
        except StoreUnavailableError:
            # Without the lock two gangs may take turns in vain for a while; without GPUs nobody would work at all.
            return await placement.reserve(bundle, count, near)
        except TimeoutError:
            return []

    async def _look(self) -> None:
        try:
            await self.gang.states()
        except GangBrokenError as error:
            # A task may have begun and found the same; then this does nothing.
            self.broken(str(error))

    def _stands_apart(self) -> bool:
        """Whether the gang is on more nodes than its ranks would need if those nodes were empty."""
        used = {member.place.node_id for member in self.gang.members}
        return placement.nodes_needed(self.gang.settings.bundle(), len(self.gang.members), used) < len(used)

    def _end(self, members: list[Member]) -> None:
        for member in [*members, *self.gang.members]:
            ray.kill(member.actor)
        self.gang.members = []
        self._changed.set()

    def _phase(self) -> str:
        if not self.serving:
            return "starting"
        if self._refusal:
            return "refused"
        if self._resizing:
            return "resizing"
        return "ready" if len(self.gang.members) == self._target else "degraded"

    def _nudge(self) -> None:
        self._wake.set()
        self._changed.set()

    def _back_off(self) -> None:
        self._backoff = min(max(1.0, 2 * self._backoff), _LONGEST_BACKOFF_SECONDS)
        self._not_before = time.monotonic() + self._backoff

    async def _wait(self) -> None:
        delay = max(_LOOK_SECONDS if not self._backoff else 0.0, self._not_before - time.monotonic())
        try:
            await asyncio.wait_for(self._wake.wait(), delay)
        except TimeoutError:
            return
        self._wake.clear()


def _in_order(members: list[Member]) -> list[str]:
    return list(dict.fromkeys(member.place.node_id for member in members))


def _nodes(gang: Gang) -> list[dict[str, Any]]:
    nodes: dict[str, dict[str, Any]] = {}
    for rank, (member, environment) in enumerate(zip(gang.members, gang.environments, strict=False)):
        node = nodes.setdefault(
            member.place.node_id,
            {"node_id": member.place.node_id, "ip": member.place.ip, "leader": False, "ranks": []},
        )
        node["leader"] = node["leader"] or member.slot.is_leaders
        node["ranks"].append(
            {
                "rank": rank,
                "pid": member.place.pid,
                "attention": member.attention,
                "environment": environment,
            }
        )
    return list(nodes.values())
