"""A gang: its ranks, the process group that they form, and the errors that tell how one of them died or hung."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayError, RayTaskError

from app.config import ConfigError, Device, ModelOptions
from app.gang import placement
from app.gang.placement import Slot
from app.gang.rank import (
    CONTROL_GROUP,
    OutOfStepError,
    Rank,
    RankPlace,
    RankState,
    Rendezvous,
    StorageAwayError,
    TaskFailedError,
    VideoNotWrittenError,
)
from app.tasks.task_config import TaskConfig
from app.text import first_line

_log = logging.getLogger(__name__)


class GangBrokenError(Exception):
    """A rank died, hangs, or could not join: this process group does no more work.

    Its message always reads "rank 1 of 4 died during generation, after 12.3 s", with a reason from the rank if it gave
    one.
    """

    def __init__(
        self,
        what: Literal["died", "did not answer", "failed", "made no progress"],
        *,
        rank: int,
        ranks: int,
        during: str,
        seconds: float,
        reason: str = "",
        task_error: TaskFailedError | None = None,
        blameless: bool = False,
    ) -> None:
        """Describe the failure.

        Args:
            what: what happened to the rank.
            rank: the rank that failed first, as far as is known.
            ranks: ranks of the process group.
            during: what the gang was doing.
            seconds: how long it had been doing that.
            reason: the rank's own error.
            task_error: set if the task itself caused the failure, so that it is not tried again.
            blameless: whether no task can have caused it: the node went, or its memory was short.
        """
        super().__init__(what, rank, ranks, during, seconds, reason)
        self.what, self.rank, self.ranks, self.during, self.seconds = what, rank, ranks, during, seconds
        self.reason = reason
        self.task_error = task_error
        self.blameless = blameless

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"rank {self.rank} of {self.ranks} {self.what} during {self.during}, after {self.seconds:.1f} s{reason}"


@dataclass(frozen=True)
class RankSettings:
    """The arguments with which every rank of a gang is started."""

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
    """For a rendezvous, and while a task runs for the next step to end. Text encoding counts to the first step; all
    decoding, encoding and storing to what follows the last."""
    load: float
    """For loading the model, including its download, and for the warm-up, which compiles."""
    answer: float
    """For the start of a rank's process, and for an answer of its control thread."""


@dataclass(frozen=True)
class Member:
    """One rank: its actor, its room, its process and its part in the process group."""

    actor: "ActorHandle[Rank]"
    slot: Slot
    place: RankPlace
    attention: str
    """The attention backend that its model uses."""
    environment: dict[str, str] = field(default_factory=dict)
    """The rendezvous variables as its process had them when it joined; empty before."""


@dataclass(frozen=True)
class Outcome:
    """How one rank answered a call."""

    rank: int
    value: Any = None
    error: Exception | None = None
    """The error that the rank raised, or Ray's error if its process died."""
    late: bool = False
    """Whether it had not answered when the answers were collected."""

    @property
    def died(self) -> bool:
        return isinstance(self.error, RayError) and not isinstance(self.error, RayTaskError)


@dataclass
class Gang:
    """The ranks of one VideoGenerator replica; ``members[i]`` is rank ``i``.

    A call goes to every rank or none. Any ``GangBrokenError`` ends the gang: ``kill`` it and start its ranks again.
    """

    settings: RankSettings
    timeouts: Timeouts
    members: list[Member] = field(default_factory=list)
    step: int = 0
    """Finished steps of the running task."""

    async def start_ranks(self, slots: Iterable[Slot], ranks: int) -> list[Member]:
        """Start a rank in every slot and load the model for a gang of ``ranks``; they are in no process group yet.

        Raises:
            ConfigError: the model or the device cannot be used.
            GangBrokenError: a rank died or took too long. Every rank that this call started is ended.
        """
        slots = list(slots)
        began = time.monotonic()
        actors: list[ActorHandle[Rank]] = []
        try:
            for slot in slots:
                actors.append(await placement.ask_head(self._actor, slot))
            places = await self._call((actor.place.remote() for actor in actors), "start", self.timeouts.answer)
            started = time.monotonic()
            loading = (actor.load.remote(ranks) for actor in actors)
            attention = await self._call(loading, "model loading", self.timeouts.load)
        except BaseException:
            for actor in actors:
                placement.end(actor)
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
        leave = (member.actor.leave.remote() for member in leaving)
        await self._call(leave, "leaving the process group", self.timeouts.answer)
        opening = [ordered[0].actor.open_store.remote(self.timeouts.step)]
        ((addr, port),) = await self._call(opening, "rendezvous", self.timeouts.step)
        parts = zip(ordered, rendezvous_of(ordered, addr, port), strict=True)
        joining = (member.actor.join.remote(rendezvous, self.timeouts.step) for member, rendezvous in parts)
        environments = await self._call(joining, "rendezvous", self.timeouts.step)
        # In one assignment: nobody sees a gang that is complete by its count and not by its ranks.
        self.members = [
            replace(member, environment=environment) for member, environment in zip(ordered, environments, strict=True)
        ]
        _log.info("process group of %d: %.2f s", len(ordered), time.monotonic() - began)

    async def warm_up(self) -> None:
        """If blocks are compiled, compile them for the model's default video, so that a task like it begins at once.

        Raises:
            GangBrokenError: a rank died or hangs.
        """
        began = time.monotonic()
        try:
            warming = (member.actor.warm_up.remote() for member in self.members)
            await self._call(warming, "warm-up", self.timeouts.load)
        except TaskFailedError as error:
            _log.warning("the model's default video cannot be made here: %s; smaller ones may", error.message)
            await self.form(self.members)
        _log.info("warm in %.2f s", time.monotonic() - began)

    async def generate(self, config: TaskConfig, path: str) -> str | None:
        """Run one task on every rank; return the video's path, or None if it was cancelled.

        Raises:
            TaskFailedError: the task failed on a working gang, which is fit for the next one.
            GangBrokenError: the gang failed.
        """
        began = time.monotonic()
        # Before anything waits: a heartbeat may report the step at any moment, and must not report the last task's.
        self.step = 0
        calls = [_call(member.actor.generate.remote(config, path)) for member in self.members]
        work = asyncio.ensure_future(_collect(calls))
        watch = asyncio.ensure_future(self._watch(path))
        try:
            both: list[asyncio.Future[Any]] = [work, watch]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                watch.result()
            outcomes = work.result()
            if all(outcome.error is None for outcome in outcomes):
                return cast("str | None", outcomes[0].value)
            # When a rank dies, the others fail first, with a connection error, or wait for it in a collective and never
            # return. So all are probed before any error is believed: first at once, since a dead rank need not be
            # waited for, and again once the others had time to fail. Who has not answered by then counts as late.
            await self.states()
            outcomes = await _collect(calls, min(5.0, self.timeouts.answer), first_error=False)
            await self.states()
            raise failure_of_task(outcomes, time.monotonic() - began)
        finally:
            for future in (*calls, work, watch):
                future.cancel()
            await asyncio.gather(*calls, work, watch, return_exceptions=True)

    async def states(self) -> list[RankState]:
        """Return the state of every rank.

        Raises:
            GangBrokenError: a rank is dead or does not answer.
        """
        asking = (member.actor.state.remote() for member in self.members)
        return await self._call(asking, "a probe", self.timeouts.answer)

    async def store_video(self, path: str) -> None:
        """Store the video that ``generate`` made.

        Raises:
            StorageAwayError: the storage did not take it; it is kept, and this can be called again.
            GangBrokenError: rank 0 died, and the video with it.
        """
        await self._call([self.members[0].actor.store_video.remote(path)], "storing the video", self.timeouts.step)

    def cancel(self, path: str) -> None:
        """Ask the gang to stop the attempt at ``path`` at its next step."""
        if self.members:
            self.members[0].actor.cancel.remote(path)

    def kill(self) -> list[Slot]:
        """End every rank; return their slots, which are still reserved."""
        members, self.members = self.members, []
        for member in members:
            placement.end(member.actor)
        return [member.slot for member in members]

    async def _watch(self, path: str) -> None:
        """Follow the running task; GangBrokenError when a rank does not answer or a step takes too long."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            await asyncio.sleep(min(0.25, self.timeouts.answer / 4))
            state = (await self.states())[0]
            # A rank that has not begun yet still shows the step of the task before.
            step = state.step if state.path == path else self.step
            if step != self.step:
                self.step, since = step, loop.time()
            elif loop.time() - since > self.timeouts.step:
                raise GangBrokenError(
                    "made no progress",
                    rank=0,
                    ranks=len(self.members),
                    during=f"generation after step {step}",
                    seconds=loop.time() - since,
                    reason=f"step_timeout_seconds is {self.timeouts.step:g}",
                )

    async def _call(self, refs: Iterable[Any], during: str, seconds: float) -> list[Any]:
        """Return the answers of all ranks to one call, in order.

        Raises:
            TaskFailedError: a rank raised it.
            ConfigError: a rank raised it.
            GangBrokenError: a rank died, raised another error, or did not answer within ``seconds``.
        """
        began = time.monotonic()
        calls = [_call(ref) for ref in refs]
        try:
            outcomes = await _collect(calls, seconds)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        if error := failure_of_call(outcomes, during, time.monotonic() - began):
            raise error
        return [outcome.value for outcome in outcomes]

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
    """Order members so that ranks of one node follow each other, the leader's own slot first, full nodes before others.

    Equally full nodes keep the order of ``members``, so the ranks that joined last are the first to be given up.
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
    """Return every member's part in one process group. Local ranks count from 0 on each node."""
    parts = []
    local: dict[str, itertools.count[int]] = {}
    for rank, member in enumerate(members):
        local_rank = next(local.setdefault(member.place.node_id, itertools.count()))
        parts.append(Rendezvous(rank, len(members), local_rank, addr, port))
    return parts


def _call(ref: Awaitable[Any]) -> "asyncio.Future[Any]":
    return asyncio.ensure_future(ref)


_FOR_THE_LEADER = (TaskFailedError, ConfigError, StorageAwayError)
"""The errors of a rank that say something about the task, the settings or the storage, not about the rank."""


async def _collect(
    calls: "Sequence[asyncio.Future[Any]]", seconds: float | None = None, *, first_error: bool = True
) -> list[Outcome]:
    """Wait until all ``calls`` have answered, one has failed (if ``first_error``) or ``seconds`` have passed."""
    if calls:
        until = asyncio.FIRST_EXCEPTION if first_error else asyncio.ALL_COMPLETED
        await asyncio.wait(calls, timeout=seconds, return_when=until)
    return [_outcome(rank, call) for rank, call in enumerate(calls)]


def _outcome(rank: int, call: "asyncio.Future[Any]") -> Outcome:
    if not call.done():
        return Outcome(rank, late=True)
    error = call.exception()
    if error is None:
        return Outcome(rank, value=call.result())
    if isinstance(error, RayTaskError) and isinstance(error.cause, _FOR_THE_LEADER):
        error = error.cause
    return Outcome(rank, error=error if isinstance(error, Exception) else RuntimeError(repr(error)))


def failure_of_call(outcomes: Sequence[Outcome], during: str, seconds: float) -> Exception | None:
    """Return the error of a call that every rank had to answer, None if all did.

    A dead rank comes first: the errors of the others follow from it. Then comes an error that a rank means for the
    user, then any other, then silence.
    """
    ranks = len(outcomes)
    for outcome in outcomes:
        if outcome.died:
            return _broken("died", outcome, ranks, during, seconds)
    for outcome in outcomes:
        if isinstance(outcome.error, _FOR_THE_LEADER):
            return outcome.error
    for outcome in outcomes:
        if outcome.error is not None:
            return _broken("failed", outcome, ranks, during, seconds)
    for outcome in outcomes:
        if outcome.late:
            return _broken("did not answer", outcome, ranks, during, seconds)
    return None


def failure_of_task(
    outcomes: Sequence[Outcome], seconds: float
) -> TaskFailedError | StorageAwayError | GangBrokenError:
    """Return the error of a task of which at least one rank failed.

    If all ranks report that the task failed, they are still in step, and the gang is fit for the next task. Otherwise
    some of them wait for the one that failed, and the gang has to be formed again; an error of the task itself goes
    along, so that the task is not tried again.
    """
    own = [outcome.error for outcome in outcomes if isinstance(outcome.error, TaskFailedError)]
    others = [outcome for outcome in outcomes if not isinstance(outcome.error, TaskFailedError)]
    if not others and not any(isinstance(error, OutOfStepError) for error in own):
        return own[0]
    if own and isinstance(own[0], VideoNotWrittenError) and not any(one.error or one.late for one in others):
        return own[0]
    away = [outcome.error for outcome in outcomes if isinstance(outcome.error, StorageAwayError)]
    if len(away) == len(outcomes):
        return away[0]
    ranks, task_error = len(outcomes), own[0] if own else None
    for what, found in (
        ("died", [outcome for outcome in outcomes if outcome.died]),
        ("failed", [one for one in outcomes if one.error and not isinstance(one.error, TaskFailedError)]),
        ("failed", [outcome for outcome in outcomes if outcome.error]),
    ):
        if found:
            return _broken(what, found[0], ranks, "generation", seconds, task_error)
    return _broken("did not answer", outcomes[0], ranks, "generation", seconds, task_error)


def _broken(
    what: Any, outcome: Outcome, ranks: int, during: str, seconds: float, task_error: TaskFailedError | None = None
) -> GangBrokenError:
    reason = ""
    if outcome.error is not None:
        cause = outcome.error.cause if isinstance(outcome.error, RayTaskError) else outcome.error
        reason = f"{type(cause).__name__}: {first_line(cause)}"
    return GangBrokenError(
        what,
        rank=outcome.rank,
        ranks=ranks,
        during=during,
        seconds=seconds,
        reason=reason,
        task_error=task_error,
        blameless=_blameless(outcome.error),
    )


def _blameless(error: Exception | None) -> bool:
    """Whether a rank died by something that no task does: its node went, or Ray's memory monitor chose it."""
    if isinstance(error, OutOfMemoryError | NodeDiedError) or getattr(error, "preempted", False):
        return True
    # Ray has no type for an actor that died with its node (ray 2.60, exceptions.py: ActorDiedError).
    return isinstance(error, ActorDiedError) and "node has died" in str(error)
