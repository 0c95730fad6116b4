"""A gang: its ranks, the process group that they form, and what is known when one of them dies or hangs."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from app.config import ConfigError, Device, ModelOptions
from app.gang.placement import Slot
from app.gang.rank import CONTROL_GROUP, Rank, RankPlace, RankState, Rendezvous, TaskFailedError

_log = logging.getLogger(__name__)


class GangBrokenError(Exception):
    """A rank died, hangs, or could not join: this process group does no more work.

    ``task_error`` is set where the task itself did that, so that it is not tried again.
    """

    def __init__(self, message: str, task_error: TaskFailedError | None = None) -> None:
        super().__init__(message)
        self.task_error = task_error


@dataclass(frozen=True)
class RankSettings:
    """What every rank of a gang is started with."""

    model_path: str
    storage_uri: str
    device: Device
    rank_cpus: float
    options: ModelOptions = field(default_factory=ModelOptions)

    def bundle(self) -> dict[str, float]:
        """Return the resources that one rank reserves."""
        return {"CPU": self.rank_cpus} | ({"GPU": 1.0} if self.device == "cuda" else {})


@dataclass(frozen=True)
class Timeouts:
    """How long a gang waits, in seconds, before it counts a rank as hung."""

    step: float
    """One denoising step, or a rendezvous."""
    load: float
    """The model, from wherever it is."""
    answer: float
    """A question to a rank's control thread."""


@dataclass(frozen=True)
class Member:
    """One rank: its actor, its room and its process."""

    actor: "ActorHandle[Rank]"
    slot: Slot
    place: RankPlace
    attention: str
    """The attention backend that its model has."""


@dataclass
class Gang:
    """The ranks of one VideoGenerator replica; ``members[i]`` is rank ``i``.

    A call goes to every rank or none. Any ``GangBrokenError`` ends the gang: ``kill`` it and start its ranks anew.
    """

    settings: RankSettings
    timeouts: Timeouts
    members: list[Member] = field(default_factory=list)
    environments: list[dict[str, str]] = field(default_factory=list)
    """Each rank's rendezvous variables, as its process had them when it joined."""
    step: int = 0
    """Steps that are done of the task in hand."""

    async def start_ranks(self, slots: Iterable[Slot], ranks: int) -> list[Member]:
        """Start a rank in every slot and load the model for a gang of ``ranks``; they are in no process group yet.

        Raises:
            ConfigError: the model or the device cannot be used.
            GangBrokenError: a rank died or took too long. Every rank that this call started is ended.
        """
        slots = list(slots)
        began = time.monotonic()
        actors = [self._actor(slot) for slot in slots]
        try:
            places = await self._all((actor.place.remote() for actor in actors), "to start", self.timeouts.answer)
            started = time.monotonic()
            attention = await self._all(
                (actor.load.remote(ranks) for actor in actors), "to load the model", self.timeouts.load
            )
        except BaseException:
            for actor in actors:
                ray.kill(actor)
            raise
        loaded = time.monotonic()
        _log.info("%d ranks: processes %.2f s, model %.2f s", len(actors), started - began, loaded - started)
        return [Member(*parts) for parts in zip(actors, slots, places, attention, strict=True)]

    async def form(self, members: Sequence[Member]) -> None:
        """Make ``members`` the gang: the old process group ends, a new one begins. Processes and weights stay.

        Ranks are numbered node by node, the leader's own slot first.

        Raises:
            GangBrokenError: a rank died or hangs.
        """
        began = time.monotonic()
        ordered = node_by_node(members)
        leaving = {id(member): member for member in [*self.members, *ordered]}.values()
        await self._all(
            (member.actor.leave.remote() for member in leaving), "to leave the process group", self.timeouts.answer
        )
        self.members = ordered
        addr, port = (
            await self._all([ordered[0].actor.open_store.remote(self.timeouts.step)], "to open the rendezvous")
        )[0]
        self.environments = await self._all(
            (
                member.actor.join.remote(rendezvous, self.timeouts.step)
                for member, rendezvous in zip(ordered, rendezvous_of(ordered, addr, port), strict=True)
            ),
            "to join the process group",
        )
        _log.info("process group of %d: %.2f s", len(ordered), time.monotonic() - began)

    async def warm_up(self) -> None:
        """Where blocks are compiled, have that done for the model's default video: a task like it then begins at once.

        Raises:
            GangBrokenError: a rank died or hangs.
        """
        began = time.monotonic()
        try:
            await self._all(
                (member.actor.warm_up.remote() for member in self.members), "to warm up", self.timeouts.load
            )
        except TaskFailedError as error:
            _log.warning("the model's default video cannot be made here: %s; smaller ones may", error.message)
            await self.form(self.members)
        _log.info("warm in %.2f s", time.monotonic() - began)

    async def generate(self, config: dict[str, Any], path: str) -> str | None:
        """Run one task on every rank; return the video's path, or None if it was cancelled.

        Raises:
            TaskFailedError: the task failed on a working gang, which is fit for the next one.
            GangBrokenError: the gang failed.
        """
        calls = [asyncio.ensure_future(_result(member.actor.generate.remote(config, path))) for member in self.members]
        work = asyncio.gather(*calls)
        watch = asyncio.ensure_future(self._watch())
        try:
            both: list[asyncio.Future[Any]] = [work, watch]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                watch.result()
            if work.exception() is None:
                return cast("str | None", calls[0].result())
            raise await self._explain(calls)
        finally:
            for future in (*calls, watch):
                future.cancel()
            await asyncio.gather(*calls, work, watch, return_exceptions=True)

    async def states(self) -> list[RankState]:
        """Ask every rank how it is; GangBrokenError if one is dead or does not answer."""
        return await self._all(
            (member.actor.state.remote() for member in self.members), "to answer", self.timeouts.answer
        )

    def cancel(self, path: str) -> None:
        """Ask the gang to stop the attempt at ``path`` at its next step."""
        if self.members:
            self.members[0].actor.cancel.remote(path)

    def drop(self, members: Iterable[Member]) -> None:
        """End ranks that are no longer of the gang and give their room back."""
        for member in members:
            ray.kill(member.actor)
            member.slot.release()

    def kill(self) -> list[Slot]:
        """End every rank; return their slots, which are still reserved."""
        for member in self.members:
            ray.kill(member.actor)
        slots = [member.slot for member in self.members]
        self.members = []
        return slots

    async def _watch(self) -> None:
        """Follow the task in hand; GangBrokenError when a rank does not answer or a step takes too long."""
        loop = asyncio.get_running_loop()
        self.step, since = 0, loop.time()
        while True:
            await asyncio.sleep(min(0.25, self.timeouts.answer / 4))
            step = (await self.states())[0].step
            if step != self.step:
                self.step, since = step, loop.time()
            elif loop.time() - since > self.timeouts.step:
                raise GangBrokenError(f"took more than {self.timeouts.step:g} s for what follows step {step}")

    async def _explain(self, calls: Sequence[asyncio.Future[Any]]) -> TaskFailedError | GangBrokenError:
        """Return what made ``calls`` fail: a broken gang, or the task itself.

        A rank's death shows first as a broken connection on the others: the ranks are asked before they are believed.
        """
        # Those that wait in a collective for the one that failed never return: they count as hung.
        await asyncio.wait(calls, timeout=min(5.0, self.timeouts.answer))
        await self.states()
        errors = [call.exception() for call in calls if call.done()]
        own = next((error for error in errors if isinstance(error, TaskFailedError)), None)
        if own and all(isinstance(error, TaskFailedError) for error in errors) and len(errors) == len(calls):
            return own
        lost = next((error for error in errors if isinstance(error, GangBrokenError)), None)
        return GangBrokenError(f"a rank {lost or 'failed while the others waited for it'}", own)

    async def _all(self, refs: Iterable[Any], purpose: str, seconds: float | None = None) -> list[Any]:
        limit = seconds or self.timeouts.step
        futures = [asyncio.ensure_future(_result(ref)) for ref in refs]
        try:
            _, pending = await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_EXCEPTION)
            for number, future in enumerate(futures):
                if future.done() and (error := future.exception()):
                    if isinstance(error, GangBrokenError):
                        raise GangBrokenError(f"rank {number} of {len(futures)} {error}")
                    raise error
            if pending:
                number = next(index for index, future in enumerate(futures) if not future.done())
                raise GangBrokenError(f"rank {number} of {len(futures)} took more than {limit:g} s {purpose}")
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            await asyncio.gather(*futures, return_exceptions=True)

    def _actor(self, slot: Slot) -> "ActorHandle[Rank]":
        bundle = self.settings.bundle()
        remote = ray.remote(concurrency_groups={CONTROL_GROUP: 2})(Rank).options(
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=slot.strategy(),
            max_restarts=0,
        )
        return cast(
            "ActorHandle[Rank]",
            remote.remote(
                self.settings.model_path, self.settings.storage_uri, self.settings.device, self.settings.options
            ),
        )


def node_by_node(members: Iterable[Member]) -> list[Member]:
    """Order members so that ranks of one node stand together, the leader's own slot first, full nodes before others.

    Nodes that are alike keep the order in which they come here: the ranks that joined last are the first to go.
    """
    members = list(members)
    per_node: dict[str, int] = {}
    for member in members:
        per_node[member.place.node_id] = per_node.get(member.place.node_id, 0) + 1
    home = {member.place.node_id for member in members if member.slot.is_leaders}
    return sorted(
        members,
        key=lambda member: (
            not member.slot.is_leaders,
            member.place.node_id not in home,
            -per_node[member.place.node_id],
            list(per_node).index(member.place.node_id),
        ),
    )


def rendezvous_of(members: Sequence[Member], addr: str, port: int) -> list[Rendezvous]:
    """Return every member's part in one process group; a local rank counts from 0 on each node."""
    parts = []
    local: dict[str, itertools.count[int]] = {}
    for rank, member in enumerate(members):
        local_rank = next(local.setdefault(member.place.node_id, itertools.count()))
        parts.append(Rendezvous(rank, len(members), local_rank, addr, port))
    return parts


async def _result(ref: Awaitable[Any]) -> Any:
    """Await a call of a rank; its death becomes ``GangBrokenError``, its own errors come out as they were raised."""
    try:
        return await ref
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, TaskFailedError | ConfigError):
            raise cause from None
        raise GangBrokenError(f"failed: {type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}") from error
    except RayActorError as error:
        raise GangBrokenError("died") from error
