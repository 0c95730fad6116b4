"""The next step of a resize, decided from what is. Pure: no clock, no API, no memory of earlier steps.

Up: room for the pods on the object, then on the RayCluster, then (their Ray nodes in) the counts. Down: the counts,
then (the gangs smaller) the pods that hold neither a rank nor a leader, then (their Ray nodes gone) the room.
"""

from dataclasses import dataclass

from wan22_operator.desired import Active, Counts


@dataclass(frozen=True)
class Pod:
    """A worker pod of the RayCluster."""

    name: str
    ip: str = ""
    running: bool = False
    terminating: bool = False


@dataclass(frozen=True)
class Gang:
    """What one gang reports about itself."""

    wanted: int
    have: int
    phase: str
    message: str = ""
    places: frozenset[str] = frozenset()
    """IPs and node ids of the Ray nodes that hold a rank or the leader."""


@dataclass(frozen=True)
class Cluster:
    """The RayCluster that is being sized: the pending one while there is one, else the active one."""

    name: str
    pods_set: int
    """Pods that were asked of it, those that are leaving included."""
    leaving: tuple[str, ...] = ()
    pods: tuple[Pod, ...] = ()
    nodes: frozenset[str] | None = None
    """IPs of its living Ray worker nodes; None where Ray does not answer."""
    gangs: tuple[Gang, ...] | None = None
    """None where the app does not answer."""

    @property
    def target(self) -> int:
        """Worker pods that it is to have."""
        return self.pods_set - len(self.leaving)


@dataclass(frozen=True)
class Situation:
    """Everything that the next step depends on."""

    wanted: Counts
    active: Active
    ranks_per_pod: int
    cluster: Cluster | None
    autoscaling: bool = False
    suspended: bool = False


@dataclass(frozen=True)
class SetActive:
    """Write what is active on the object; the webhook applies it to the spec."""

    active: Active


@dataclass(frozen=True)
class SetCluster:
    """Write the pods on the RayCluster, and which of them leave."""

    pods: int
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wait:
    """Nothing to write now; look again soon."""

    message: str


@dataclass(frozen=True)
class Settled:
    """Nothing left to do."""

    message: str = ""


Step = SetActive | SetCluster | Wait | Settled


def next_step(now: Situation) -> Step:
    """Return the one thing to do next."""
    need = now.wanted.pods(now.ranks_per_pod)
    if now.autoscaling:
        return _autoscaled(now, need)
    if now.cluster is None or now.suspended:
        return _without_pods(now, need)
    return (
        _make_room(now, now.cluster, need)
        or _set_counts(now, now.cluster, need)
        or _part(now.cluster)
        or _shrink(now, now.cluster, need)
        or _close_room(now, now.cluster, need)
        or _gangs_there(now, now.cluster)
    )


def _autoscaled(now: Situation, need: int) -> Step:
    if now.active != Active(now.wanted, need):
        return SetActive(Active(now.wanted, need))
    return Settled("enableInTreeAutoscaling is on: the replicas are left to the Ray autoscaler")


def _without_pods(now: Situation, need: int) -> Step:
    if now.active != Active(now.wanted, need):
        return SetActive(Active(now.wanted, need))
    if now.cluster is not None and (now.cluster.pods_set != need or now.cluster.leaving):
        return SetCluster(need)
    if now.suspended:
        return Settled("the RayCluster is suspended; it will have the wanted size when it goes on")
    return Wait("KubeRay has not made a RayCluster yet")


def _make_room(now: Situation, cluster: Cluster, need: int) -> Step | None:
    if now.active.pods < need:
        return SetActive(Active(now.active.counts, need))
    most = max(need, now.active.counts.pods(now.ranks_per_pod))
    return SetCluster(most) if cluster.target < most else None


def _set_counts(now: Situation, cluster: Cluster, need: int) -> Step | None:
    if now.active.counts == now.wanted:
        return None
    if need > now.active.counts.pods(now.ranks_per_pod):
        if cluster.nodes is None:
            return Wait("Ray's head does not answer yet")
        if len(cluster.nodes) < need:
            return Wait(f"{len(cluster.nodes)} of {need} worker pods have joined Ray")
    return SetActive(Active(now.wanted, now.active.pods))


def _part(cluster: Cluster) -> Step | None:
    """See pods off that were told to leave."""
    if not cluster.leaving:
        return None
    left = [pod.name for pod in cluster.pods if pod.name in cluster.leaving]
    if left:
        return Wait(f"pods are leaving: {', '.join(sorted(left))}")
    if cluster.nodes is None or len(cluster.nodes) > cluster.target:
        return Wait("Ray still counts the pods that left")
    return SetCluster(cluster.target)


def _shrink(now: Situation, cluster: Cluster, need: int) -> Step | None:
    surplus = cluster.target - need
    if surplus <= 0:
        return None
    waiting = _resizing(now, cluster)
    if waiting:
        return Wait(waiting)
    pods = [pod for pod in cluster.pods if not pod.terminating]
    if len(pods) < cluster.target:
        return Wait(f"{len(pods)} of {cluster.target} worker pods exist; those not needed go when all do")
    held = frozenset[str]().union(*(gang.places for gang in cluster.gangs or ()))
    free = [pod for pod in pods if not pod.ip or pod.ip not in held]
    victims = sorted(free, key=lambda pod: (pod.running, pod.name))[:surplus]
    if not victims:
        return Wait("every worker pod still holds a rank or a leader")
    return SetCluster(cluster.pods_set, tuple(pod.name for pod in victims))


def _close_room(now: Situation, cluster: Cluster, need: int) -> Step | None:
    if now.active.pods == need:
        return None
    if cluster.nodes is None or len(cluster.nodes) > need:
        return Wait("Ray still counts the pods that left")
    return SetActive(Active(now.active.counts, need))


def _gangs_there(now: Situation, cluster: Cluster) -> Step:
    waiting = _resizing(now, cluster)
    return Wait(waiting) if waiting else Settled()


def _resizing(now: Situation, cluster: Cluster) -> str:
    """Return what the gangs still lack to have the wanted size; empty if nothing."""
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
