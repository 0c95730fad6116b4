"""The next step of a resize, as a table of situations."""

from dataclasses import replace

import pytest
from wan22_operator.desired import Active, Counts
from wan22_operator.observed import Cluster, Gang, Leader, Pod
from wan22_operator.steps import AUTOSCALED, SetActive, SetCluster, Settled, Situation, Step, Wait, next_step, release

from app.tasks.gang_state import GangPhase


def pods(count: int, running: bool = True) -> tuple[Pod, ...]:
    return tuple(Pod(f"pod-{n}", f"10.0.0.{n}", running) for n in range(count))


def nodes(count: int) -> frozenset[str]:
    return frozenset(f"10.0.0.{n}" for n in range(count))


def gang(have: int, wanted: int | None = None, phase: str = "ready", listed: int | None = None) -> Gang:
    return Gang(
        have if wanted is None else wanted,
        have,
        GangPhase(phase),
        have if listed is None else listed,
        addresses=nodes(have if listed is None else listed),
    )


def situation(
    wanted: int,
    active: int,
    room: int,
    cluster: Cluster | None,
    *,
    gangs: int = 1,
    active_gangs: int = 1,
    **rest: bool,
) -> Situation:
    return Situation(Counts(wanted, gangs), Active(Counts(active, active_gangs), room), 1, cluster, **rest)


def cluster(
    pods_set: int, there: int | None = None, have: int | None = None, leaving: tuple[str, ...] = (), **rest: object
) -> Cluster:
    there = pods_set if there is None else there
    gangs = (gang(have),) if have is not None else None
    made = replace(Cluster("c", pods_set, leaving, pods(there), nodes(there), gangs), **rest)  # type: ignore[arg-type]
    leaders = tuple(Leader(min(gang.addresses, default=""), True) for gang in made.gangs or ())
    return made if "leaders" in rest else replace(made, leaders=leaders)


def activate(workers: int, room: int, gangs: int = 1) -> SetActive:
    return SetActive(Active(Counts(workers, gangs), room))


LEAVING = ("pod-2", "pod-3")
STILL_COUNTED = Wait("Ray still counts the pods that left")

UP = [
    ("first room on the object", situation(4, 2, 2, cluster(2, have=2)), activate(2, 4)),
    ("then pods on the RayCluster", situation(4, 2, 4, cluster(2, have=2)), SetCluster(4)),
    ("wait for the Ray nodes", situation(4, 2, 4, cluster(4, 3, have=2)), Wait("3 of 4 worker pods have joined Ray")),
    ("Ray does not answer", situation(4, 2, 4, cluster(4, have=2, nodes=None)), Wait("Ray's head does not answer yet")),
    ("nodes in: the counts", situation(4, 2, 4, cluster(4, have=2)), activate(4, 4)),
    (
        "wait for the gang",
        situation(4, 4, 4, cluster(4, gangs=(gang(2, 4, "resizing"),))),
        Wait("a gang has 2 of 4 ranks (resizing)"),
    ),
    (
        "KubeRay has not decided about the last change",
        situation(4, 2, 2, cluster(2, have=2), unseen=True),
        Wait("KubeRay has not acted on the last change yet; it may replace the RayCluster"),
    ),
    ("settled", situation(4, 4, 4, cluster(4, have=4)), Settled()),
    ("settled, whatever KubeRay has noted", situation(4, 4, 4, cluster(4, have=4), unseen=True), Settled()),
    (
        "a growth in the middle of a shrink spares the pods",
        situation(4, 2, 4, cluster(4, 4, 2, ("pod-3",))),
        SetCluster(4),
    ),
    ("a RayCluster that KubeRay made smaller grows again", situation(4, 4, 4, cluster(2, have=4)), SetCluster(4)),
]

DOWN = [
    (
        "no pod leaves before the gang names all its ranks",
        situation(2, 2, 4, cluster(4, gangs=(gang(2, listed=0),))),
        Wait("no pod leaves while a gang names 0 of its 2 ranks"),
    ),
    (
        "nor while it forms again",
        situation(2, 2, 4, cluster(4, gangs=(gang(2, phase="resizing"),))),
        Wait("no pod leaves while a gang is resizing"),
    ),
    (
        "nor while a rank is somewhere else than in a known pod",
        situation(2, 2, 4, cluster(4, gangs=(replace(gang(2), addresses=frozenset({"10.0.0.1", "10.0.0.9"})),))),
        Wait("no pod leaves while a gang has ranks at 10.0.0.9, where no worker pod is known"),
    ),
    (
        "nor while Serve lists a leader whose gang does not report",
        situation(2, 2, 4, cluster(4, have=2, leaders=(Leader("10.0.0.0", True), Leader("10.0.0.3", True)))),
        Wait("no pod leaves while 1 gang(s) report and Serve lists 2"),
    ),
    (
        "nor while a leader stops",
        situation(2, 2, 4, cluster(4, have=2, leaders=(Leader("10.0.0.0", False),))),
        Wait("no pod leaves while a gang's leader starts or stops"),
    ),
    (
        "nor while Serve does not answer",
        situation(2, 2, 4, cluster(4, have=2, leaders=None)),
        Wait("no pod leaves while Serve does not list the gangs' leaders"),
    ),
    (
        "nor the pod of a leader that its gang's report places elsewhere",
        situation(2, 2, 4, cluster(4, have=2, leaders=(Leader("10.0.0.3", True),))),
        SetCluster(4, ("pod-2",)),
    ),
    ("first the counts", situation(2, 4, 4, cluster(4, have=4)), activate(2, 4)),
    (
        "the counts go down without Ray",
        situation(2, 4, 4, cluster(4, have=4, nodes=None)),
        activate(2, 4),
    ),
    ("wait for the gang", situation(2, 2, 4, cluster(4, gangs=(gang(4, 2),))), Wait("a gang has 4 of 2 ranks (ready)")),
    (
        "a report about the old target does not count",
        situation(2, 2, 4, cluster(4, gangs=(gang(2, 4),))),
        Wait("a gang has 2 of 2 ranks (ready)"),
    ),
    ("no report, no pod goes", situation(2, 2, 4, cluster(4)), Wait("the app does not answer yet")),
    ("then the pods without ranks", situation(2, 2, 4, cluster(4, have=2)), SetCluster(4, LEAVING)),
    (
        "pods that do not run go first",
        situation(2, 2, 4, cluster(4, have=2, pods=(*pods(3), Pod("pending")))),
        SetCluster(4, ("pending", "pod-2")),
    ),
    (
        "no pod goes while KubeRay still makes some: it would pick others",
        situation(2, 2, 4, cluster(4, 3, have=2)),
        Wait("3 of 4 worker pods exist; surplus pods are removed once all do"),
    ),
    (
        "a growth that a quota cuts short and that is taken back: first as many pods as exist",
        situation(2, 2, 5, cluster(5, 3, have=2, creation_fails=True)),
        SetCluster(3),
    ),
    (
        "never fewer than are needed",
        situation(2, 2, 4, cluster(4, 1, gangs=(replace(gang(2), addresses=nodes(1)),), creation_fails=True)),
        SetCluster(2),
    ),
    (
        "then the surplus that exists",
        situation(2, 2, 5, cluster(3, have=2, creation_fails=True)),
        SetCluster(3, ("pod-2",)),
    ),
    (
        "a gang spread over all pods moves first",
        situation(2, 2, 4, cluster(4, gangs=(replace(gang(2), addresses=nodes(4)),))),
        Wait("every worker pod still holds a rank or a leader"),
    ),
    (
        "wait until they left",
        situation(2, 2, 4, cluster(4, 4, 2, LEAVING)),
        Wait("pods are leaving: pod-2, pod-3"),
    ),
    (
        "wait until Ray knows",
        situation(2, 2, 4, cluster(4, 2, 2, LEAVING, nodes=nodes(3))),
        STILL_COUNTED,
    ),
    ("then clear workersToDelete", situation(2, 2, 4, cluster(4, 2, 2, LEAVING)), SetCluster(2)),
    ("last the room", situation(2, 2, 4, cluster(2, have=2)), activate(2, 2)),
    ("settled", situation(2, 2, 2, cluster(2, have=2)), Settled()),
]

OTHER = [
    ("no RayCluster yet: all at once", situation(4, 2, 2, None), activate(4, 4)),
    ("no RayCluster yet: wait", situation(4, 4, 4, None), Wait("KubeRay has not made a RayCluster yet")),
    ("suspended: all at once", situation(4, 2, 2, cluster(2, 0), suspended=True), activate(4, 4)),
    ("suspended: the RayCluster too", situation(4, 4, 4, cluster(2, 0), suspended=True), SetCluster(4)),
    (
        "autoscaling: the counts",
        situation(4, 2, 2, cluster(2, have=2), autoscaling=True),
        activate(4, 4),
    ),
    (
        "autoscaling: never the pods",
        situation(4, 4, 4, cluster(2, have=2), autoscaling=True),
        Wait(f"a gang has 2 of 4 ranks (ready); {AUTOSCALED}"),
    ),
    ("autoscaling: settled", situation(4, 4, 4, cluster(2, have=4), autoscaling=True), Settled(AUTOSCALED)),
    (
        "autoscaling: no RayCluster yet",
        situation(4, 4, 4, None, autoscaling=True),
        Wait("KubeRay has not made a RayCluster yet"),
    ),
    (
        "autoscaling: suspended",
        situation(4, 4, 4, None, autoscaling=True, suspended=True),
        Settled("the RayCluster is suspended; it will have the wanted size when it is resumed"),
    ),
    ("more gangs need room", situation(2, 2, 2, cluster(2, have=2), gangs=2), activate(2, 4)),
    (
        "more gangs: the counts once the Ray nodes have joined",
        situation(2, 2, 4, cluster(4, have=2), gangs=2),
        activate(2, 4, gangs=2),
    ),
    (
        "a missing gang is waited for",
        situation(2, 2, 4, cluster(4, have=2), gangs=2, active_gangs=2),
        Wait("1 of 2 gang(s) report"),
    ),
    (
        "all gangs are ready",
        situation(2, 2, 4, cluster(4, gangs=(gang(2), gang(2))), gangs=2, active_gangs=2),
        Settled(),
    ),
    (
        "a gang too many is waited for before pods go",
        situation(2, 2, 4, cluster(4, gangs=(gang(2), gang(2)))),
        Wait("2 of 1 gang(s) report"),
    ),
]


REPLACED = [
    ("the pods beyond the gangs' need leave", cluster(4, have=2), SetCluster(4, LEAVING)),
    ("they are seen off", cluster(4, 2, 2, LEAVING), SetCluster(2)),
    ("without surplus it is left alone", cluster(2, have=2), Settled()),
    ("a gang that is resizing keeps all pods", cluster(4, gangs=(gang(2, 4, "resizing"),)), Settled()),
    (
        "a gang that is not ready keeps all pods",
        cluster(4, gangs=(gang(2, 2, "starting"),)),
        Wait("no pod leaves while a gang is starting"),
    ),
    ("an app that is silent keeps all pods", cluster(4), Wait("the app of the old RayCluster does not answer")),
]


@pytest.mark.parametrize(("old", "step"), [pytest.param(old, step, id=name) for name, old, step in REPLACED])
def test_a_raycluster_that_is_replaced_frees_what_its_gangs_do_not_need(old: Cluster, step: Step) -> None:
    assert release(old, 1) == step


@pytest.mark.parametrize(
    ("now", "step"),
    [
        pytest.param(now, step, id=f"{way}: {name}")
        for way, table in (("up", UP), ("down", DOWN), ("other", OTHER))
        for name, now, step in table
    ],
)
def test_next_step(now: Situation, step: Step) -> None:
    assert next_step(now) == step
