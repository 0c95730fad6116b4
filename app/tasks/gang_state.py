"""What a leader publishes of its gang. ``/readyz`` shows it; the operator and the doctor read it there.

No torch, Ray or Redis here: the operator's image has this file. A reader ignores fields that it does not know, since
leader and operator may be of different releases.
"""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class GangPhase(StrEnum):
    """What a gang is doing about the number of its ranks."""

    STARTING = "starting"
    """Its ranks are being started, load the model or form their first process group; it takes no task."""
    READY = "ready"
    """It has the wanted number of ranks and takes tasks."""
    RESIZING = "resizing"
    """It takes tasks with the ranks that it has, while others are added or removed."""
    DEGRADED = "degraded"
    """It takes tasks with fewer or more ranks than are wanted, and will try again to reach that number."""
    REFUSED = "refused"
    """It takes tasks with the ranks that it has; the wanted number cannot run this model and ``message`` says why."""


class GangRank(BaseModel):
    """One rank of a gang."""

    model_config = ConfigDict(frozen=True)

    rank: int
    pid: int
    attention: str
    """The attention backend that its model uses."""
    environment: dict[str, str]
    """RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as its process has them."""


class GangNode(BaseModel):
    """One Ray node on which a gang has ranks."""

    model_config = ConfigDict(frozen=True)

    node_id: str
    ip: str
    leader: bool
    """Whether the gang's leader runs on this node."""
    ranks: list[GangRank]


class GangState(BaseModel):
    """One gang as its leader sees it."""

    model_config = ConfigDict(frozen=True)

    id: str
    """The Serve replica's unique id."""
    cluster: str
    """The Ray cluster, as ``app.runtime.cluster`` names it."""
    pid: int
    """The leader's process."""
    task_id: str | None
    """The task that it runs now."""
    wanted: int
    """Ranks that the user asks for."""
    have: int
    """Ranks in its process group; 0 while it is starting."""
    phase: GangPhase
    message: str
    """Why it takes no task, or why the phase is neither ready nor resizing; may be empty."""
    nodes: list[GangNode]
    takes_tasks: bool = True
    """False while it could start no task: its ranks are not formed, or its storage takes no video."""


def is_complete(gangs: Sequence[GangState], replicas: int) -> bool:
    """Return whether a release may take over: each of the VideoGenerator ``replicas`` reports a gang that is ready.

    A gang with fewer ranks than wanted is not: the release before it may be whole.
    """
    return 0 < replicas <= len(gangs) and all(gang.phase is GangPhase.READY for gang in gangs)
