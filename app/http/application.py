"""The HTTP side: what a client sees of a task, and what it is told when something is wrong."""

import textwrap
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.generate_request import GenerateRequest, InvalidRequestError
from app.media import images
from app.tasks.gang_state import GangState
from app.tasks.store import StoreUnavailableError, Task, TaskStatus
from app.tasks.task_config import TaskConfig

MAX_BODY_BYTES = 64 * 1024
"""The most that a request takes beside its image."""
MAX_IMAGE_BODY_BYTES = MAX_BODY_BYTES + (images.MAX_BYTES + 3) * 4 // 3
"""The most that a request takes with an image, in base64."""


MAX_CONNECTION_SECONDS = 2.0
"""How long a connection is kept: a part of the time that a stopping pod goes on answering (`worker.drainSeconds`)."""
_FORGET_CONNECTION_SECONDS = 60.0

SUBMIT_PATH = "/generate"


class Progress(BaseModel):
    """Denoising steps that are done, of all."""

    step: int
    steps: int


class ErrorView(BaseModel):
    """Why a task failed."""

    code: str
    message: str


class ImageView(BaseModel):
    """What is shown of the image from which a task's video begins."""

    sha256: str
    format: str
    width: int
    height: int
    bytes: int


class TaskView(GenerateRequest):
    """A task as a client sees it: its state, and the request with every field filled in."""

    image: ImageView | None = None  # type: ignore[assignment]  # Shown by its facts, given by its bytes.

    task_id: str
    status: TaskStatus
    progress: Progress
    attempt: int = Field(description="0 before the first, 1 for an undisturbed run.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: ErrorView | None
    url: str
    video_url: str | None


class TaskPage(BaseModel):
    """A page of tasks, newest first."""

    tasks: list[TaskView]
    cursor: str | None = Field(description="Give it back to see the next page; null on the last one.")


class Readiness(BaseModel):
    """Whether a task that is submitted now would be run."""

    ready: bool
    cluster: str
    message: str
    gangs: list[GangState]


def view(task: Task) -> TaskView:
    """Return what a client sees of ``task``."""
    url = f"/generate/{task.task_id}"
    config = task.config
    shown = config.model_dump(include=set(TaskConfig.model_fields))
    shown["image"] = ImageView.model_validate(config.image, from_attributes=True) if config.image else None
    return TaskView(
        **shown,
        task_id=task.task_id,
        status=task.status,
        progress=Progress(step=task.step, steps=task.steps or config.num_inference_steps),
        attempt=task.attempt,
        created_at=_time(task.created_at),
        started_at=_time(task.started_at) if task.started_at else None,
        finished_at=_time(task.finished_at) if task.finished_at else None,
        error=ErrorView(code=task.error.code, message=task.error.message) if task.error else None,
        url=url,
        video_url=f"{url}/video" if task.status == TaskStatus.SUCCEEDED else None,
    )


def create_api(clock: Callable[[], float] = time.monotonic) -> FastAPI:
    """Return the application without its routes: its documentation, limits and error answers."""
    api = FastAPI(
        title="wan22-rayservice",
        summary="Wan2.2 video generation: submit a task, follow it, fetch its video.",
        version="1",
    )
    api.add_middleware(_BodyLimit)
    api.add_middleware(_ConnectionAge, clock=clock)
    handlers: dict[Any, Callable[[Request, Any], Awaitable[JSONResponse]]] = {
        RequestValidationError: _invalid_fields,
        InvalidRequestError: _invalid_field,
        StoreUnavailableError: _unavailable,
        HTTPException: _http_error,
        Exception: _unexpected,
    }
    for error, handler in handlers.items():
        api.add_exception_handler(error, handler)
    return api


def too_large(most: int) -> str:
    return f"the body has more than {most} bytes"


def problem(status: int, message: str, *, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    """Return an error answer; every one has the same shape."""
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    return JSONResponse({"error": {"code": code, "message": message, **more}}, status, headers)


async def _invalid_fields(_: Request, error: RequestValidationError) -> JSONResponse:
    fields = []
    for one in error.errors():
        path = [str(part) for part in one["loc"][1:]]
        if one["type"] == "json_invalid":
            fields.append({"field": "body", "message": f"not JSON: {one['ctx']['error']} at character {path[0]}"})
        elif not path:
            fields.append({"field": "body", "message": "expected a JSON object with Content-Type: application/json"})
        elif one["type"] == "extra_forbidden":
            known = ", ".join(GenerateRequest.model_fields)
            fields.append({"field": ".".join(path), "message": f"unknown field; known are {known}"})
        else:
            found = textwrap.shorten(repr(one["input"]), 60)
            fields.append({"field": ".".join(path), "message": f"{one['msg']} (found {found})"})
    return problem(422, "; ".join(f"{one['field']}: {one['message']}" for one in fields), fields=fields)


async def _invalid_field(_: Request, error: InvalidRequestError) -> JSONResponse:
    return problem(422, str(error), fields=[{"field": error.field, "message": error.message}])


async def _unavailable(_: Request, __: StoreUnavailableError) -> JSONResponse:
    message = (
        "the task store (Redis) does not answer; nothing was lost, and a POST with its own task_id may be repeated"
    )
    return problem(503, message, headers={"Retry-After": "5"})


async def _http_error(_: Request, error: HTTPException) -> JSONResponse:
    return problem(error.status_code, str(error.detail), headers=dict(error.headers or {}))


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    return problem(500, "an error inside the service; its log has the details")


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class _ConnectionAge:
    """Ends a connection with its first answer after ``MAX_CONNECTION_SECONDS``.

    One that is kept for good stays with its pod, and is cut off when the pod stops: Kubernetes sends only new
    connections elsewhere, and Serve's proxy closes none by itself. A new one for each request would cost too much.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock
        self._since: dict[tuple[str, int], float] = {}
        """When each client's address and port was first seen, oldest first."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope.get("client"):
            await self._app(scope, receive, send)
            return
        now = self._clock()
        client = tuple(scope["client"])
        last = now - self._since.setdefault(client, now) >= MAX_CONNECTION_SECONDS
        if last:
            del self._since[client]
        self._forget(now)

        async def closing(message: Message) -> None:
            if last and message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, closing)

    def _forget(self, now: float) -> None:
        """Drop connections that may have ended long ago: nobody says when one does."""
        while self._since:
            oldest = next(iter(self._since))
            if now - self._since[oldest] < _FORGET_CONNECTION_SECONDS:
                break
            del self._since[oldest]


class _BodyLimit:
    """Refuses bodies that are larger than any request can be, whatever their headers say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Only where an image may come; what else is in such a body is bounded when it is read.
        submits = scope["method"] == "POST" and scope["path"] == SUBMIT_PATH
        most = MAX_IMAGE_BODY_BYTES if submits else MAX_BODY_BYTES
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            await problem(413, too_large(most))(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, too_large(most))
            return message

        await self._app(scope, counted, send)
