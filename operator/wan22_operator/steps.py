"""Decides the next step of a resize from the present situation. Pure: no clock, no API, no memory of earlier steps.

To grow: room for the pods on the object; pods on the RayCluster; once their Ray nodes have joined, the counts.
To shrink: the counts; once the gangs are smaller, the pods that hold neither a rank nor a leader leave; once their Ray
nodes are gone, the room is closed.
"""

from dataclasses import dataclass, replace

from app.tasks.gang_state import GangPhase
from wan22_operator.desired import Active, Counts
from wan22_operator.observed import Cluster

AUTOSCALED = "enableInTreeAutoscaling is on: the Ray autoscaler sets the replicas"


@dataclass(frozen=True)
class Situation:
    """Everything that the next step depends on."""

    wanted: Counts
    active: Active
    ranks_per_pod: int
    cluster: Cluster | None
    """None if KubeRay has not made one yet."""
    autoscaling: bool = False
    """True if Ray's autoscaler sets the replicas; the operator then sets counts only."""
    suspended: bool = False
    unseen: bool = False
    """True if KubeRay has not acted yet on what somebody else changed: it may replace the RayCluster."""


@dataclass(frozen=True)
class SetActive:
    """Record on the object what is active from now on; the webhook applies it to the spec."""

    active: Active


@dataclass(frozen=True)
class SetCluster:
    """Record on the RayCluster how many pods it has room for and which of them leave."""

    pods: int
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wait:
    """There is nothing to write now; reconcile again soon."""

    message: str


@dataclass(frozen=True)
class Settled:
    """There is nothing left to do."""

    message: str = ""


Step = SetActive | SetCluster | Wait | Settled


def next_step(now: Situation) -> Step:
    """Return the one step to take next."""
    need = now.wanted.pods(now.ranks_per_pod)
    if now.autoscaling:
        return _autoscaled(now, need)
    if now.cluster is None or now.suspended:
        return _without_pods(now, need)
    return (
        _make_room(now, now.cluster, need)
        or _set_counts(now, now.cluster, need)
        or _see_pods_off(now.cluster)
        or _shrink(now, now.cluster, need)
        or _close_room(now, now.cluster, need)
        or _wait_for_gangs(now, now.cluster)
    )


def pods_held(cluster: Cluster, ranks_per_pod: int) -> int | None:
    """Return the worker pods that the gangs of a RayCluster need as they are; None if they do not report."""
    if not cluster.gangs:
        return None
    return Counts(max(gang.wanted for gang in cluster.gangs), len(cluster.gangs)).pods(ranks_per_pod)


def release(cluster: Cluster, ranks_per_pod: int) -> Step:
    """Return the step that frees the pods which a RayCluster that is being replaced has beyond its gangs' need.

    Pods of a growth that an upgrade overtook would else keep their GPUs idle until the old cluster is deleted.
    """
    need = pods_held(cluster, ranks_per_pod)
    if need is None:
        return Wait("the app of the old RayCluster does not answer")
    counts = Counts(max(gang.wanted for gang in cluster.gangs or ()), len(cluster.gangs or ()))
    now = Situation(counts, Active(counts, need), ranks_per_pod, cluster)
    return _see_pods_off(cluster) or _shrink(now, cluster, need) or Settled()


def _autoscaled(now: Situation, need: int) -> Step:
    if now.active != Active(now.wanted, need):
        return SetActive(Active(now.wanted, need))
    if now.suspended:
        return _without_pods(replace(now, cluster=None), need)
    if now.cluster is None:
        return Wait("KubeRay has not made a RayCluster yet")
    missing = _missing_of_gangs(now, now.cluster)
    return Wait(f"{missing}; {AUTOSCALED}") if missing else Settled(AUTOSCALED)


def _without_pods(now: Situation, need: int) -> Step:
    if now.active != Active(now.wanted, need):
        return SetActive(Active(now.wanted, need))
    if now.cluster is not None and (now.cluster.pods_set != need or now.cluster.leaving):
        return SetCluster(need)
    if now.suspended:
        return Settled("the RayCluster is suspended; it will have the wanted size when it is resumed")
    return Wait("KubeRay has not made a RayCluster yet")


def _make_room(now: Situation, cluster: Cluster, need: int) -> Step | None:
    most = max(need, now.active.counts.pods(now.ranks_per_pod))
    if now.unseen and cluster.target < most:
        return Wait("KubeRay has not acted on the last change yet; it may replace the RayCluster")
    if now.active.pods < need:
        return SetActive(Active(now.active.counts, need))
    return SetCluster(most) if cluster.target < most else None


def _set_counts(now: Situation, cluster: Cluster, need: int) -> Step | None:
    if now.active.counts == now.wanted:
        return None
    if need > now.active.counts.pods(now.ranks_per_pod):
        if cluster.nodes is None:
            return Wait("Ray's head does not answer yet")
        joined = cluster.nodes & {pod.ip for pod in cluster.pods}
        if len(joined) < need:
            return Wait(f"{len(joined)} of {need} worker pods have joined Ray")
    return SetActive(Active(now.wanted, now.active.pods))


def _see_pods_off(cluster: Cluster) -> Step | None:
    """Wait until the pods named in workersToDelete are gone, then clear the list."""
    if not cluster.leaving:
        return None
    remaining = [pod.name for pod in cluster.pods if pod.name in cluster.leaving]
    if remaining:
        return Wait(f"pods are leaving: {', '.join(sorted(remaining))}")
    if cluster.nodes is None or len(cluster.nodes) > cluster.target:
        return Wait("Ray still counts the pods that left")
    return SetCluster(cluster.target)


def _shrink(now: Situation, cluster: Cluster, need: int) -> Step | None:
    surplus = cluster.target - need
    if surplus <= 0:
        return None
    missing = _missing_of_gangs(now, cluster) or _missing_of_proof(cluster)
    if missing:
        return Wait(missing)
    pods = [pod for pod in cluster.pods if not pod.terminating]
    if len(pods) < cluster.target and cluster.creation_fails:
        # A quota, say, keeps KubeRay from making the rest: ask for no more pods than exist, and not for fewer.
        return SetCluster(max(need, len(pods)))
    # While KubeRay still makes pods, it would pick the ones to remove by itself.
    if len(pods) < cluster.target:
        return Wait(f"{len(pods)} of {cluster.target} worker pods exist; surplus pods are removed once all do")
    held = frozenset(leader.ip for leader in cluster.leaders or ()).union(
        *(gang.addresses for gang in cluster.gangs or ())
    )
    free = [pod for pod in pods if not pod.ip or pod.ip not in held]
    victims = sorted(free, key=lambda pod: (pod.running, pod.name))[:surplus]
    if not victims:
        return Wait("every worker pod still holds a rank or a leader")
    return SetCluster(cluster.pods_set, tuple(pod.name for pod in victims))


def _missing_of_proof(cluster: Cluster) -> str:
    """Return what keeps the report from proving which pods hold nothing; empty if it proves that.

    A gang whose report lapsed, or that is forming again, may hold ranks in pods that the report does not name.
    """
    known = {pod.ip for pod in cluster.pods}
    for gang in cluster.gangs or ():
        if gang.phase != GangPhase.READY:
            return f"no pod leaves while a gang is {gang.phase}"
        if gang.listed != gang.have:
            return f"no pod leaves while a gang names {gang.listed} of its {gang.have} ranks"
        if unknown := sorted(gang.addresses - known):
            return f"no pod leaves while a gang has ranks at {', '.join(unknown)}, where no worker pod is known"
    return _missing_of_witness(cluster)


def _missing_of_witness(cluster: Cluster) -> str:
    """Return how Serve's list of leaders contradicts the gangs' reports; empty if both agree.

    A gang whose report lapsed is missing among the reports, but Serve still lists its leader.
    """
    gangs = len(cluster.gangs or ())
    if cluster.leaders is None:
        return "no pod leaves while Serve does not list the gangs' leaders"
    if not all(leader.running for leader in cluster.leaders):
        return "no pod leaves while a gang's leader starts or stops"
    if len(cluster.leaders) != gangs:
        return f"no pod leaves while {gangs} gang(s) report and Serve lists {len(cluster.leaders)}"
    return ""


def _close_room(now: Situation, cluster: Cluster, need: int) -> Step | None:
    if now.active.pods == need:
        return None
    if cluster.nodes is None or len(cluster.nodes) > need:
        return Wait("Ray still counts the pods that left")
    return SetActive(Active(now.active.counts, need))


def _wait_for_gangs(now: Situation, cluster: Cluster) -> Step:
    missing = _missing_of_gangs(now, cluster)
    return Wait(missing) if missing else Settled()


def _missing_of_gangs(now: Situation, cluster: Cluster) -> str:
    """Return why the gangs do not have the wanted size yet; empty if they have it."""
    if cluster.gangs is None:
        return "the app does not answer yet"
    wanted = now.wanted
    if len(cluster.gangs) != wanted.gangs:
        return f"{len(cluster.gangs)} of {wanted.gangs} gang(s) report"
    for gang in cluster.gangs:
        if gang.wanted != wanted.total_workers or gang.have != wanted.total_workers:
            why = f": {gang.message}" if gang.message else ""
            return f"a gang has {gang.have} of {wanted.total_workers} ranks ({gang.phase}){why}"
    return ""
