"""The supervisor with a stand-in for the gang; tests/service has it form and resize real ones."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from app.gang import supervisor
from app.gang.gang import Gang, GangBrokenError, Member
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

    def kill(self) -> list[Slot]:
        self.members = []
        return [LEADERS]


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
