"""The supervisor with a stand-in for the gang; tests/service has it form and resize real ones."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any, cast

import pytest

from app.gang import placement, supervisor
from app.gang.gang import Gang, GangBrokenError, Member, RankSettings
from app.gang.placement import Slot
from app.gang.rank import RankPlace
from app.gang.supervisor import GangSupervisor
from app.tasks.gang_state import GangPhase
from app.tasks.store import TaskStore
from testing.waiting import until_async

LEADERS = Slot(cast(Any, None), "home", is_leaders=True)


class StandIn:
    """Stands for a gang of one rank, whose answer to a probe a test chooses."""

    def __init__(self) -> None:
        self.members: list[Any] = []
        self.probe = asyncio.Event()
        self.error: Exception | None = None
        self.settings = RankSettings("m", "s", "cpu", 0.5)
        self.started: list[Slot] = []
        self.too_few = 0
        """The largest number of ranks whose memory does not hold the model."""

    async def refusal(self, members: list[Any]) -> str:
        return f"{len(members)} ranks do not hold the model" if len(members) <= self.too_few else ""

    async def form(self, members: list[Any]) -> None:
        self.members = members

    async def states(self) -> list[Any]:
        await self.probe.wait()
        if self.error:
            raise self.error
        return []

    async def start_ranks(self, slots: list[Slot], ranks: int) -> list[Any]:
        self.started = list(slots)
        return [Member(cast(Any, None), slot, RankPlace(slot.node_id, "", 1), "native") for slot in slots]

    async def warm_up(self) -> None:
        pass

    def kill(self) -> list[Slot]:
        members, self.members = self.members, []
        return [member.slot for member in members if isinstance(member, Member)] or [LEADERS]


@pytest.fixture
def gang(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    monkeypatch.setattr(supervisor, "_PROBE_SECONDS", 0.05)
    monkeypatch.setattr(supervisor, "_nodes", lambda _: [])
    gang = StandIn()
    gang.members = ["rank 0"]
    return gang


def over(gang: StandIn, ranks: int = 1) -> GangSupervisor:
    made = GangSupervisor(cast(Gang, gang), cast(TaskStore, None), LEADERS, heads=4, timeout_seconds=1)
    made.record(ranks)
    return made


@contextlib.asynccontextmanager
async def working(supervised: GangSupervisor) -> AsyncIterator[None]:
    """Let the supervisor's loop run."""
    loop = asyncio.create_task(supervised.run())
    yield
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def is_phase(supervised: GangSupervisor, wanted: GangPhase) -> bool:
    return phase(supervised) is wanted


def phase(of: GangSupervisor) -> GangPhase:
    return of.report(gang_id="g", cluster="c", task_id=None).phase


async def test_a_resize_that_the_ranks_memory_does_not_hold_is_refused_and_changes_nothing(
    gang: StandIn,
) -> None:
    place = RankPlace("home", "10.0.0.1", 1)
    gang.members = [Member(cast(Any, None), LEADERS, place, "native") for _ in range(4)]
    gang.too_few = 2
    gang.probe.set()
    supervised = over(gang, 4)
    supervised.record(2)
    async with working(supervised):
        await until_async("it is refused", lambda: is_phase(supervised, GangPhase.REFUSED))
        report = supervised.report(gang_id="g", cluster="c", task_id=None)
        assert (report.wanted, report.have) == (2, 4)
        assert report.message == "total_workers: 2 ranks do not hold the model; the gang keeps 4 ranks"
        supervised.record(4)
        await until_async("four are ready", lambda: is_phase(supervised, GangPhase.READY))


async def test_a_gang_whose_rank_hangs_takes_no_task_until_it_answers(gang: StandIn) -> None:
    supervised = over(gang)
    assert not await supervised.answers()
    assert (supervised.serving, phase(supervised)) == (False, GangPhase.STARTING)
    gang.probe.set()
    assert await supervised.answers()
    assert phase(supervised) is GangPhase.READY


async def test_a_gang_whose_rank_died_is_ended_before_a_task_is_started(gang: StandIn) -> None:
    supervised = over(gang)
    gang.error = GangBrokenError("died", rank=0, ranks=1, during="a probe", seconds=0.1)
    gang.probe.set()
    assert not await supervised.answers()
    report = supervised.report(gang_id="g", cluster="c", task_id=None)
    assert (report.have, report.message) == (0, "starting again: rank 0 of 1 died during a probe, after 0.1 s")


async def test_a_gang_that_breaks_again_soon_waits_before_it_is_formed(gang: StandIn) -> None:
    supervised = over(gang)
    pauses = []
    for _ in range(3):
        gang.members = ["rank 0"]
        supervised.broken(GangBrokenError("died", rank=0, ranks=1, during="generation", seconds=1))
        pauses.append(round(supervised._retry.remaining()))
    assert pauses == [0, 1, 2]


def failing_gpu(rank: int) -> GangBrokenError:
    reason = "DeviceLostError: AcceleratorError: CUDA error: uncorrectable ECC error encountered"
    return GangBrokenError(
        "failed", rank=rank, ranks=2, during="generation", seconds=1, reason=reason, device_lost=True
    )


@pytest.fixture
def two_nodes(gang: StandIn, monkeypatch: pytest.MonkeyPatch) -> list[Member]:
    """Two ranks on two nodes, of which rank 1's GPU can fail; a third node is free."""

    async def live() -> dict[str, str]:
        return {"home": "10.0.0.1", "far": "10.0.0.2", "free": "10.0.0.3"}

    async def reserve(_: object, count: int, near: object, *, avoid: Collection[str], **__: object) -> list[Slot]:
        return [Slot(cast(Any, None), node) for node in ("far", "free") if node not in avoid][:count]

    monkeypatch.setattr(placement, "live_nodes", live)
    monkeypatch.setattr(placement, "reserve", reserve)
    monkeypatch.setattr(placement, "tell_head", lambda *_: None)
    return [
        Member(cast(Any, None), LEADERS, RankPlace("home", "10.0.0.1", 1), "native"),
        Member(cast(Any, None), Slot(cast(Any, None), "far"), RankPlace("far", "10.0.0.2", 2), "native"),
    ]


async def test_a_node_whose_gpu_fails_again_and_again_is_left_and_named(
    gang: StandIn, two_nodes: list[Member], store: TaskStore
) -> None:
    supervised = GangSupervisor(cast(Gang, gang), store, LEADERS, heads=4, timeout_seconds=1)
    supervised.record(2)
    used = []
    for _ in range(3):
        gang.members = list(two_nodes)
        supervised.broken(failing_gpu(1))
        await supervised.form()
        used.append([slot.node_id for slot in gang.started])
    assert used == [["home", "far"], ["home", "far"], ["home", "free"]]
    (why,) = supervised._left.values()
    assert why.startswith("the gang does not use the pod at 10.0.0.2 (Ray node far) any more: its GPU failed 3 times (")


async def test_a_failing_gpu_next_to_the_leader_stops_the_gang_and_says_what_to_do(
    gang: StandIn, two_nodes: list[Member], store: TaskStore
) -> None:
    supervised = GangSupervisor(cast(Gang, gang), store, LEADERS, heads=4, timeout_seconds=1)
    supervised.record(2)
    for _ in range(3):
        gang.members = list(two_nodes)
        supervised.broken(failing_gpu(0))
    async with working(supervised):

        async def told() -> bool:
            return "next to the leader" in supervised.report(gang_id="g", cluster="c", task_id=None).message

        await until_async("it says why", told)
    assert not supervised.serving
    assert "delete the pod" in supervised.report(gang_id="g", cluster="c", task_id=None).message


async def test_a_task_that_succeeds_makes_earlier_failures_of_a_gpu_chance(
    gang: StandIn, two_nodes: list[Member]
) -> None:
    supervised = over(gang, 2)
    for _ in range(4):
        gang.members = list(two_nodes)
        supervised.broken(failing_gpu(1))
        supervised.worked()
    assert not supervised._left
