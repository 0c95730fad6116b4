"""What is observed of a RayCluster: its worker pods, its Ray nodes and its gangs."""

from dataclasses import dataclass

from app.tasks.gang_state import GangPhase


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
    """Ranks that its leader has been asked for."""
    have: int
    """Ranks that are ready."""
    phase: GangPhase
    listed: int
    """Ranks that the report names one by one; fewer than ``have`` while the gang forms again."""
    message: str = ""
    addresses: frozenset[str] = frozenset()
    """IPs of the Ray nodes that hold one of its ranks or its leader."""


@dataclass(frozen=True)
class Leader:
    """One replica of VideoGenerator, as Serve's dashboard lists it."""

    ip: str
    """IP of its Ray node; empty if it has none yet."""
    running: bool


@dataclass(frozen=True)
class Cluster:
    """The RayCluster that is being sized: the pending one if there is one, otherwise the active one."""

    name: str
    pods_set: int
    """Worker pods that the operator has asked for, including those in ``leaving``."""
    leaving: tuple[str, ...] = ()
    """Pods named in workersToDelete."""
    pods: tuple[Pod, ...] = ()
    nodes: frozenset[str] | None = None
    """IPs of its living Ray worker nodes, without those of other groups' pods; None if Ray does not answer."""
    gangs: tuple[Gang, ...] | None = None
    """None if the app does not answer."""
    creation_fails: bool = False
    """True if KubeRay reports that it cannot create pods (condition ReplicaFailure)."""
    leaders: tuple[Leader, ...] | None = None
    """The gangs' leaders as Serve lists them; None if it does not answer, or was not asked."""

    @property
    def target(self) -> int:
        """Worker pods that remain once those in ``leaving`` are gone."""
        return self.pods_set - len(self.leaving)
