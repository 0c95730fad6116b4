"""How tasks, gangs and readiness are shown to a client."""

import hashlib
from datetime import UTC, datetime
from email.utils import formatdate

from pydantic import BaseModel, ConfigDict, Field

from app.tasks.gang_state import GangState
from app.tasks.store import Task, TaskStatus
from app.tasks.task_config import TaskConfig


class Progress(BaseModel):
    """Denoising steps: how many are done, and how many there are."""

    step: int
    steps: int


class ErrorView(BaseModel):
    """Why a task failed: ``code`` for programs, ``message`` for people."""

    code: str
    message: str


class ImageView(BaseModel):
    """Facts about the image from which a task's video begins."""

    sha256: str
    format: str
    width: int
    height: int
    bytes: int


class TaskView(TaskConfig):
    """A task as a client sees it: its state, and the request with every field filled in.

    It checks no bounds: a task is shown whatever its record holds.
    """

    model_config = ConfigDict(extra="ignore")

    image: ImageView | None  # type: ignore[assignment]  # Not its path in the storage.

    task_id: str
    status: TaskStatus
    progress: Progress
    attempt: int = Field(description="Attempts started so far: 0 while the task waits, 1 for a run without failures.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: ErrorView | None
    url: str
    video_url: str | None


class TaskPage(BaseModel):
    """A page of tasks, newest first."""

    tasks: list[TaskView]
    cursor: str | None = Field(description="Send it as cursor to get the next page; null on the last page.")


class Readiness(BaseModel):
    """Whether a task that is submitted now would run, and why not."""

    ready: bool
    cluster: str
    message: str
    gangs: list[GangState]


def task_url(task_id: str, root: str = "") -> str:
    """Return the path of a task; ``root`` is the route prefix under which the application is served."""
    return f"{root}/generate/{task_id}"


def view(task: Task, root: str = "") -> TaskView:
    """Return ``task`` as a client sees it, with links below the route prefix ``root``."""
    url = task_url(task.task_id, root)
    shown = task.config.model_dump(include=set(TaskConfig.model_fields))
    return TaskView(
        **shown,
        task_id=task.task_id,
        status=task.status,
        progress=Progress(step=task.step, steps=task.steps or task.config.num_inference_steps),
        attempt=task.attempt,
        created_at=_time(task.created_at),
        started_at=_time(task.started_at) if task.started_at else None,
        finished_at=_time(task.finished_at) if task.finished_at else None,
        error=ErrorView(code=task.error.code, message=task.error.message) if task.error else None,
        url=url,
        video_url=f"{url}/video" if task.status == TaskStatus.SUCCEEDED else None,
    )


def video_headers(task: Task) -> dict[str, str]:
    """Return ETag and Last-Modified of a succeeded task's video, the same from every replica.

    A file's own time would differ between the replicas' local copies; the time at which the task ended tells a task
    from an earlier one of the same id.
    """
    ended = task.finished_at or task.created_at
    tag = hashlib.sha256(f"{task.video} {ended!r}".encode()).hexdigest()[:32]
    return {"ETag": f'"{tag}"', "Last-Modified": formatdate(ended, usegmt=True)}


def matches(if_none_match: str, tag: str) -> bool:
    """Return whether the header If-None-Match names ``tag``, compared weakly (RFC 9110, section 13.1.2)."""
    named = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
    return tag in named or "*" in named


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
