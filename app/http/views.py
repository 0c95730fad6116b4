"""How tasks, gangs and readiness are shown to a client."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from app.http.generate_request import GenerateRequest
from app.tasks.store import Task, TaskStatus


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


class TaskView(GenerateRequest):
    """A task as a client sees it: its state, and the request with every field filled in."""

    image: ImageView | None = None  # type: ignore[assignment]  # A request carries bytes; a task shows facts.

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


class GangView(BaseModel):
    """One gang, as its leader last said."""

    id: str
    cluster: str
    pid: int
    task_id: str | None
    wanted: int
    have: int
    phase: str
    message: str
    nodes: list[dict[str, Any]]


class Readiness(BaseModel):
    """Whether a task that is submitted now would run, and why not."""

    ready: bool
    cluster: str
    message: str
    gangs: list[GangView]


def view(task: Task) -> TaskView:
    """Return ``task`` as a client sees it."""
    url = f"/generate/{task.task_id}"
    shown = dict(task.config)
    if shown.get("image"):
        shown["image"] = {name: shown["image"][name] for name in ImageView.model_fields}
    return TaskView(
        **shown,
        task_id=task.task_id,
        status=task.status,
        progress=Progress(step=task.step, steps=task.steps or task.config["num_inference_steps"]),
        attempt=task.attempt,
        created_at=_time(task.created_at),
        started_at=_time(task.started_at) if task.started_at else None,
        finished_at=_time(task.finished_at) if task.finished_at else None,
        error=ErrorView(code=task.error.code, message=task.error.message) if task.error else None,
        url=url,
        video_url=f"{url}/video" if task.status == TaskStatus.SUCCEEDED else None,
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
