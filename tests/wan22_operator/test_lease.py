"""Which replica leads, by a clock that the test sets and a stand-in for the API server."""

import asyncio

import pytest
from wan22_operator import lease as lease_module
from wan22_operator.kube import ConflictError
from wan22_operator.lease import Lease

from testing.waiting import until_async
from tests.wan22_operator.fake_kube import FakeKube

SECONDS = 10
LEASES = "/apis/coordination.k8s.io/v1/namespaces/ns/leases"
PATH = f"{LEASES}/wan22-operator"


class Clock:
    """A monotonic clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lease_module, "monotonic", clock)
    return clock


def replica(kube: FakeKube, identity: str, seconds: int = SECONDS) -> Lease:
    return Lease(
        kube, namespace="ns", name="wan22-operator", identity=identity, seconds=seconds, changed=lambda leading: None
    )


def held_by(identity: str, renewed: str = "2030-01-01T00:00:00.000000Z") -> FakeKube:
    spec = {"holderIdentity": identity, "leaseDurationSeconds": SECONDS, "renewTime": renewed, "leaseTransitions": 3}
    return FakeKube({PATH: {"metadata": {"name": "wan22-operator"}, "spec": spec}})


async def test_a_lease_that_does_not_exist_is_created(clock: Clock) -> None:
    kube = FakeKube()
    a = replica(kube, "a")
    assert not a.leading
    await a.take_or_renew()
    assert a.leading
    assert kube.objects[PATH]["spec"]["holderIdentity"] == "a"
    assert kube.objects[PATH]["spec"]["leaseDurationSeconds"] == SECONDS


async def test_a_lease_expires_by_the_own_clock_whatever_time_is_written_in_it(clock: Clock) -> None:
    kube = held_by("b", renewed="1999-01-01T00:00:00.000000Z")
    a = replica(kube, "a")
    await a.take_or_renew()
    clock.now += SECONDS - 0.1
    await a.take_or_renew()
    assert not a.leading
    assert kube.writes == []
    clock.now += 0.1
    await a.take_or_renew()
    assert a.leading
    assert kube.objects[PATH]["spec"]["leaseTransitions"] == 4


async def test_a_lease_that_is_renewed_is_not_taken(clock: Clock) -> None:
    kube = held_by("b")
    a, b = replica(kube, "a"), replica(kube, "b")
    for _ in range(10):
        await b.take_or_renew()
        await a.take_or_renew()
        assert (a.leading, b.leading) == (False, True)
        clock.now += SECONDS * 0.6
    assert kube.objects[PATH]["spec"]["leaseTransitions"] == 3


async def test_a_renewal_keeps_the_time_at_which_the_lease_was_taken(clock: Clock) -> None:
    kube = FakeKube()
    a = replica(kube, "a")
    await a.take_or_renew()
    before = kube.objects[PATH]["spec"]
    await a.take_or_renew()
    after = kube.objects[PATH]["spec"]
    assert (after["acquireTime"], after["leaseTransitions"]) == (before["acquireTime"], before["leaseTransitions"])


async def test_a_leader_that_cannot_renew_stops_before_another_may_start(clock: Clock) -> None:
    kube = FakeKube()
    a, b = replica(kube, "a"), replica(kube, "b")
    await a.take_or_renew()
    for _ in range(2 * SECONDS):
        await b.take_or_renew()
        assert not (a.leading and b.leading)
        clock.now += 1
    assert b.leading


async def test_of_two_that_take_a_lease_at_once_one_leads(clock: Clock) -> None:
    kube = held_by("")
    a = replica(kube, "a")
    kube.before_write = lambda: kube.store(PATH, {**kube.objects[PATH], "spec": {"holderIdentity": "b"}})
    with pytest.raises(ConflictError, match="another replica wrote the Lease first"):
        await a.take_or_renew()
    assert not a.leading
    assert kube.objects[PATH]["spec"]["holderIdentity"] == "b"


async def test_a_replica_that_stops_releases_the_lease_and_the_next_takes_it_at_once() -> None:
    kube = FakeKube()
    led = asyncio.Event()
    a = Lease(kube, namespace="ns", name="wan22-operator", identity="a", seconds=60, changed=lambda leading: led.set())
    task = asyncio.create_task(a.run())
    async with asyncio.timeout(5):
        await led.wait()
    assert a.leading
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not a.leading
    assert kube.objects[PATH]["spec"]["holderIdentity"] == ""
    b = replica(kube, "b")
    await b.take_or_renew()
    assert b.leading


async def test_a_replica_that_does_not_lead_leaves_the_lease_alone_when_it_stops() -> None:
    kube = held_by("b")
    a = replica(kube, "a", seconds=60)
    task = asyncio.create_task(a.run())

    async def has_looked() -> bool:
        return bool(a._seen[0] == kube.objects[PATH]["spec"])

    await until_async("it has seen who leads", has_looked)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert kube.writes == []


async def test_a_replica_that_must_not_lead_leaves_the_lease_and_a_leader_gives_it_up() -> None:
    kube = FakeKube()
    why = "it sees nothing"
    asked = 0
    changes: list[bool] = []

    def hindrance() -> str:
        nonlocal asked
        asked += 1
        return why

    a = Lease(
        kube,
        namespace="ns",
        name="wan22-operator",
        identity="a",
        seconds=1,
        changed=changes.append,
        hindrance=hindrance,
    )
    task = asyncio.create_task(a.run())

    async def has_asked() -> bool:
        return asked > 1

    await until_async("it has looked twice", has_asked)
    assert kube.writes == []
    why = ""

    async def leads() -> bool:
        return changes == [True]

    await until_async("it leads", leads)
    why = "it sees nothing any more"

    async def gave_up() -> bool:
        return changes == [True, False]

    await until_async("it gives the Lease up", gave_up)
    assert kube.objects[PATH]["spec"]["holderIdentity"] == ""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
