"""Brings a gang to its wanted number of ranks, and back to life, while the leader goes on answering.

It works as the operator's reconcile does: gather the situation, let ``steps.next_step`` decide, act, report.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable

from app.config import ConfigError
from app.gang import placement
from app.gang.gang import Gang, GangBrokenError, Member, node_by_node
from app.gang.placement import Slot
from app.gang.steps import (
    COMPACT_SECONDS,
    Backoff,
    Compact,
    Form,
    Grow,
    Probe,
    Rest,
    Shrink,
    Situation,
    Step,
    next_step,
    pause,
)
from app.plan import NoPlanError, gang_plan, largest_planned_count
from app.tasks.gang_state import GangNode, GangPhase, GangRank, GangState
from app.tasks.store import StoreUnavailableError, TaskStore

_log = logging.getLogger(__name__)

_START_PATIENCE_SECONDS = 10.0
"""How long a starting gang waits for room for all of its ranks before it starts with fewer."""
_MOST_FAILURES = 3
_PROBE_SECONDS = 2.0
"""How long the ranks may take to answer before a task is started on another gang."""
_QUIET_SECONDS = 60.0
"""A gang that breaks again within this time is formed again after a pause, not at once."""


class GangNotFormedError(Exception):
    """The gang could not be formed, several times in a row."""


class _UnmetError(Exception):
    """The wanted number of ranks cannot be reached now; the gang stays as it is."""


class GangSupervisor:
    """Owns the number of ranks of one gang: the target, the ranks that exist, and the steps between.

    Args:
        gang: the gang, empty at first.
        store: for the lock under which gangs reserve room, one at a time.
        own_slot: the room next to the leader, which is rank 0's.
        heads: attention heads of the model, which limit the counts.
        timeout_seconds: how long a resize waits for room.
    """

    def __init__(self, gang: Gang, store: TaskStore, own_slot: Slot, heads: int, timeout_seconds: float) -> None:
        self.gang = gang
        self.turn = asyncio.Lock()
        """Held by the user of the process group: a task, or a step that changes the group."""
        self._store = store
        self._heads = heads
        self._timeout = timeout_seconds
        self._kept_slots = [own_slot]
        """Room that stays reserved while there is no process group; empty while there is one."""
        self._wanted = 0
        self._target = 0
        self._refusal = ""
        self._message = ""
        self._resizing = False
        self._forming = False
        self._suspect = False
        """Whether a rank did not answer a probe in time."""
        self._failures = 0
        self._retry = Backoff()
        self._broke_at = -_QUIET_SECONDS
        self._compact_at = 0.0
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

    # For the leader

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
        self._retry.reset()
        self._nudge()

    def refuse(self, message: str) -> None:
        """Leave the gang as it is and report why."""
        _log.warning("%s", message)
        self._refusal = message
        self._changed.set()

    def broken(self, error: GangBrokenError) -> None:
        """End a gang that cannot work any more; ``run`` starts its ranks again in the same places."""
        if not self.gang.members:
            return
        _log.error("the gang broke and starts again: %s", error)
        self._kept_slots = self.gang.kill()
        self._suspect = False
        self._message = f"starting again: {error}"
        now = time.monotonic()
        if now - self._broke_at < _QUIET_SECONDS:
            self._retry.fail()
        else:
            self._retry.reset()
        self._broke_at = now
        self._nudge()

    async def answers(self) -> bool:
        """Whether every rank answers a probe at once. A gang that does not takes no task until it does, or is ended."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self.gang.states()
        except TimeoutError:
            self._suspect = True
            self._nudge()
        except GangBrokenError as error:
            self.broken(error)
        else:
            self._suspect = False
        return self.serving

    def check(self) -> None:
        """Raise GangNotFormedError once forming the gang has failed too often."""
        if self._failures >= _MOST_FAILURES:
            raise GangNotFormedError(f"the gang could not be formed {self._failures} times: {self._message}")

    @property
    def serving(self) -> bool:
        """Whether the gang takes tasks."""
        return bool(self.gang.members) and not self._forming and not self._suspect

    def report(self, *, gang_id: str, cluster: str, task_id: str | None) -> GangState:
        """Return the gang's state as it is published."""
        return GangState(
            id=gang_id,
            cluster=cluster,
            pid=os.getpid(),
            task_id=task_id,
            wanted=self._wanted,
            have=len(self.gang.members),
            phase=self._phase(),
            message=self._refusal or self._message,
            nodes=_nodes(self.gang.members),
            takes_tasks=self.serving,
        )

    def announce(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()

    async def changed(self, seconds: float) -> None:
        """Return when the state changed, or after ``seconds``."""
        # Not asyncio.wait_for: in Python 3.11 it swallows a cancellation that arrives together with the event.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()
            self._changed.clear()

    # The loop

    async def run(self) -> None:
        """Work towards the wanted size, for ever."""
        while True:
            await self._rest()
            try:
                step = next_step(await self._gather())
                await self._act(step)
                if isinstance(step, Form | Grow | Shrink) and len(self.gang.members) == self._target:
                    self._retry.reset()
            except (_UnmetError, NoPlanError) as unmet:
                self._message = f"{unmet}; trying again"
                self._retry.fail()
            except (GangBrokenError, ConfigError) as error:
                self._failures += 1
                self._message = str(error)
                self._retry.fail()
                _log.error("the gang failed: %s", error)
            except Exception:
                _log.exception("the supervisor failed; it goes on")
                self._retry.fail()
            finally:
                self._resizing = False
                self._changed.set()

    async def _gather(self) -> Situation:
        busy = self.turn.locked()
        return Situation(
            target=self._target,
            ranks=len(self.gang.members),
            busy=busy,
            scattered=not busy and time.monotonic() >= self._compact_at and await self._is_scattered(),
            retry_in=self._retry.remaining(),
        )

    async def _act(self, step: Step) -> None:
        match step:
            case Form():
                await self.form()
            case Grow(missing):
                await self._grow(missing)
            case Shrink():
                self._begin_resize()
                target = self._target
                await self._regroup([], lambda members: node_by_node(members)[:target], target)
            case Compact():
                self._compact_at = time.monotonic() + COMPACT_SECONDS
                await self._compact()
            case Probe():
                await self._probe()
            case Rest():
                pass

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause(self._retry.remaining())):
                await self._wake.wait()
            self._wake.clear()

    # Steps

    async def form(self) -> None:
        """Form the gang from nothing: with all ranks that are wanted, or with the largest planned count that has room.

        Raises:
            ConfigError: a rank cannot use the model or its device.
            GangBrokenError: a rank died, or the ranks could not join. All are ended, their room is kept.
        """
        async with self.turn:
            alive = await placement.live_nodes()
            for slot in [slot for slot in self._kept_slots if slot.node_id not in alive and not slot.is_leaders]:
                slot.release()
                self._kept_slots.remove(slot)
            missing = self._target - len(self._kept_slots)
            if missing > 0:
                self._kept_slots += await self._reserve(missing, _START_PATIENCE_SECONDS, partly=True)
            count = largest_planned_count(min(len(self._kept_slots), self._target), self._heads)
            placement.release(self._kept_slots[count:])
            self._kept_slots = self._kept_slots[:count]
            members: list[Member] = []
            self._forming = True
            try:
                members = await self.gang.start_ranks(self._kept_slots, count)
                await self.gang.form(members)
                await self.gang.warm_up()
            except BaseException:
                self._end([*members, *self.gang.members])
                raise
            finally:
                self._forming = False
            self._failures = 0
            self._message = ""
            if count < self._target:
                self._message = f"there is room for {count} of {self._target} ranks; trying again for all"
                self._retry.fail()
            _log.info("formed %d of %d ranks", count, self._target)
            self._changed.set()

    async def renew(self) -> None:
        """Begin a new process group with the same ranks, after a task failed in the old one. Call it with ``turn``."""
        try:
            await self.gang.form(self.gang.members)
        except GangBrokenError as error:
            self.broken(error)

    async def _grow(self, missing: int) -> None:
        self._begin_resize()
        target = self._target
        slots = await self._reserve(missing, self._timeout, partly=False)
        if not slots and (self._target != target or not self.gang.members):
            return
        if not slots:
            raise _UnmetError(f"no room for {missing} more ranks within {self._timeout:g} s")
        await self._regroup(await self._start(slots), lambda members: node_by_node(members)[:target], target)

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

    async def _regroup(self, new: list[Member], choose: Callable[[list[Member]], list[Member]], target: int) -> None:
        """When the process group is free, form it again of the members that ``choose`` returns of old and ``new``."""
        async with self.turn:
            if not self.gang.members or self._target != target:
                self._drop(new)
                return
            members = [*self.gang.members, *new]
            keep = choose(members)
            leave = [member for member in members if member not in keep]
            try:
                await self.gang.form(keep)
            except BaseException as error:
                self._kept_slots = [member.slot for member in keep]
                self._end(members)
                placement.release(member.slot for member in leave)
                self._message = f"starting again: {error}"
                raise
            self._drop(leave)
            self._message = ""
            self._failures = 0
            _log.info("the gang has %d ranks", len(keep))

    async def _probe(self) -> None:
        try:
            await self.gang.states()
            self._suspect = False
        except GangBrokenError as error:
            # A task may have begun and found the same; then this does nothing.
            self.broken(error)

    # What the steps are made of

    async def _start(self, slots: list[Slot]) -> list[Member]:
        try:
            return await self.gang.start_ranks(slots, self._target)
        except (GangBrokenError, ConfigError) as error:
            placement.release(slots)
            raise _UnmetError(f"{len(slots)} new ranks did not start: {error}") from None
        except BaseException:
            placement.release(slots)
            raise

    async def _reserve(self, count: int, seconds: float, *, partly: bool) -> list[Slot]:
        """Reserve ``count`` slots within ``seconds``; on timeout return [] or, with ``partly``, those of the last try.

        Nothing is held between tries, so two gangs that grow never each hold half of the room that one needs. A new
        target, or a gang that broke meanwhile, ends the wait.
        """
        deadline = time.monotonic() + seconds
        target = self._target
        had_gang = bool(self.gang.members)
        near = _in_order(node_by_node(self.gang.members)) or [slot.node_id for slot in self._kept_slots[:1]]
        while True:
            slots = await self._reserve_now(count, near)
            late = time.monotonic() >= deadline
            if len(slots) == count or (late and partly):
                return slots
            placement.release(slots)
            if had_gang and not self.turn.locked():
                await self._probe()
            if late or self._target != target or (had_gang and not self.gang.members):
                return []
            await asyncio.sleep(0.5)

    async def _reserve_now(self, count: int, near: list[str]) -> list[Slot]:
        bundle = self.gang.settings.bundle()
        try:
            async with self._store.lock("placement", hold_seconds=120, wait_seconds=30):
                return await placement.reserve(bundle, count, near)
        except StoreUnavailableError:
            # Without the lock two gangs may reserve in each other's way for a while; without ranks nobody would work.
            return await placement.reserve(bundle, count, near)
        except TimeoutError:
            return []

    async def _is_scattered(self) -> bool:
        used = {member.place.node_id for member in self.gang.members}
        if len(used) < 2:
            return False
        return await placement.nodes_needed(self.gang.settings.bundle(), len(self.gang.members), used) < len(used)

    def _end(self, members: list[Member]) -> None:
        """End the ranks of ``members``; their room stays reserved."""
        for member in members:
            placement.end(member.actor)
        self.gang.members = []
        self._changed.set()

    def _drop(self, members: list[Member]) -> None:
        """End ranks that no longer belong to the gang and give their room back."""
        for member in members:
            placement.end(member.actor)
            member.slot.release()

    def _begin_resize(self) -> None:
        self._resizing = True
        self._changed.set()

    def _phase(self) -> GangPhase:
        if not self.serving:
            return GangPhase.STARTING
        if self._refusal:
            return GangPhase.REFUSED
        if self._resizing:
            return GangPhase.RESIZING
        return GangPhase.READY if len(self.gang.members) == self._target else GangPhase.DEGRADED

    def _nudge(self) -> None:
        self._wake.set()
        self._changed.set()


def _in_order(members: list[Member]) -> list[str]:
    return list(dict.fromkeys(member.place.node_id for member in members))


def _nodes(members: list[Member]) -> list[GangNode]:
    ranks: dict[str, list[GangRank]] = {}
    for number, member in enumerate(members):
        rank = GangRank(rank=number, pid=member.place.pid, attention=member.attention, environment=member.environment)
        ranks.setdefault(member.place.node_id, []).append(rank)
    ips = {member.place.node_id: member.place.ip for member in members}
    home = {member.place.node_id for member in members if member.slot.is_leaders}
    return [GangNode(node_id=node, ip=ips[node], leader=node in home, ranks=found) for node, found in ranks.items()]
