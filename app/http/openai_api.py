"""OpenAI's Videos API below ``/v1``: the tasks of ``/generate`` in another form, for clients that speak it."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.exceptions import HTTPException

from app.http.application import VIDEOS_PATH
from app.http.content import Variant
from app.http.generate_request import GenerateRequest, InvalidRequestError
from app.http.repetition import Repetition, RepetitionOfHeaders
from app.http.request_body import body_documentation, read_body
from app.http.video_request import RemixRequest, VideoRequest, seconds_text
from app.http.views import ErrorView, ImageView
from app.media.storage import Storage
from app.model.folder import ModelFolder
from app.tasks.store import Task, TaskStatus, TaskStore
from app.tasks.task_config import TaskConfig

POLL_MS = 2000
"""How long a client waits before it asks for an unfinished video again, in milliseconds."""
_STATUSES: dict[TaskStatus, Literal["queued", "in_progress", "completed", "failed"]] = {
    TaskStatus.QUEUED: "queued",
    TaskStatus.RUNNING: "in_progress",
    TaskStatus.SUCCEEDED: "completed",
    TaskStatus.FAILED: "failed",
    # OpenAI has no word for it; the error's code tells it from a failure.
    TaskStatus.CANCELLED: "failed",
}
_CANCELLED = ErrorView(code="cancelled", message="A client cancelled this video before it was finished.")

router = APIRouter(tags=["OpenAI"])


class Video(TaskConfig):
    """A task as a video of OpenAI's API, and the request with every field filled in."""

    model_config = ConfigDict(extra="ignore")

    image: ImageView | None  # type: ignore[assignment]  # Not its path in the storage.

    id: str
    object: Literal["video"] = "video"
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int = Field(description="Percent.")
    created_at: int = Field(description="Seconds since the epoch, as all times here.")
    completed_at: int | None
    expires_at: int | None = Field(description="From when on the ended task and its files are deleted.")
    model: str
    seconds: str = Field(description="(num_frames - 1) / fps")
    size: str
    remixed_from_video_id: str | None
    error: ErrorView | None


class VideoList(BaseModel):
    """A page of videos; the next one begins after ``last_id``."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """The answer to DELETE."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = Field(description="False if the video is being made: it stops at its next step.")


class Model(BaseModel):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When its folder was written; 0 if that is not known.")
    owned_by: Literal["wan22-rayservice"] = "wan22-rayservice"


class ModelList(BaseModel):
    """All models: the one that is served."""

    object: Literal["list"] = "list"
    data: list[Model]


class Tasks(Protocol):
    """What these routes need of APIEntrypoint."""

    @property
    def store(self) -> TaskStore: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def model(self) -> ModelFolder: ...
    async def find(self, task_id: str) -> Task: ...
    async def accept(
        self, request: GenerateRequest, repetition: Repetition, remixed_from: str | None = None
    ) -> Task: ...
    async def stop(self, task: Task) -> Task: ...
    async def delete(self, task: Task) -> None: ...
    async def content(self, task: Task, variant: Variant, if_none_match: str | None) -> Response: ...


async def _this_replica() -> Any:
    return serve.get_replica_context().servable_object


async def _read_video(request: Request) -> VideoRequest:
    return await read_body(request, VideoRequest)


async def _read_remix(request: Request) -> RemixRequest:
    return await read_body(request, RemixRequest)


Replica = Annotated[Tasks, Depends(_this_replica)]


@router.post(VIDEOS_PATH, openapi_extra=body_documentation(VideoRequest))
async def create_video(
    request: Annotated[VideoRequest, Depends(_read_video)],
    repetition: RepetitionOfHeaders,
    tasks: Replica,
    response: Response,
) -> Video:
    """Accept a video. What is left out is the model's default, as for ``POST /generate``."""
    try:
        task = await tasks.accept(request.translated(tasks.model), repetition)
    except InvalidRequestError as error:
        raise request.in_its_words(error) from None
    return _shown(task, tasks, response)


@router.get(VIDEOS_PATH)
async def list_videos(
    tasks: Replica,
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """Return videos in the order of their creation, newest first unless ``order`` is ``asc``."""
    before = None
    if after is not None:
        # The client may have deleted the last video of the page before.
        before = await tasks.store.place(after)
        if before is None:
            raise HTTPException(404, f"after: There is no video {after!r}. Leave it out to begin with the first page.")
    found, following = await tasks.store.page(None, limit, before, oldest_first=order == "asc")
    videos = [video_view(task, tasks) for task in found]
    first, last = (videos[0].id, videos[-1].id) if videos else (None, None)
    return VideoList(data=videos, first_id=first, last_id=last, has_more=following is not None)


@router.get(VIDEOS_PATH + "/{video_id}")
async def retrieve_video(video_id: str, tasks: Replica, response: Response) -> Video:
    """Return the video's state; that of a failed one, too, is answered 200."""
    return _shown(await tasks.find(video_id), tasks, response)


@router.get(
    VIDEOS_PATH + "/{video_id}/content", response_class=FileResponse, responses={304: {"description": "Unchanged"}}
)
async def video_content(
    video_id: str,
    tasks: Replica,
    variant: Variant = Variant.VIDEO,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the mp4, its first frame (WebP) or a sheet of its frames (JPEG); with ranges, and 304 for the ETag."""
    return await tasks.content(await tasks.find(video_id), variant, if_none_match)


@router.delete(VIDEOS_PATH + "/{video_id}")
async def delete_video(video_id: str, tasks: Replica) -> DeletedVideo:
    """Delete a video that ended or waits, with its files. One that is being made is stopped; delete it again then."""
    task = await tasks.find(video_id)
    if not task.status.ended:
        task = await tasks.stop(task)
    if task.status.ended:
        await tasks.delete(task)
    return DeletedVideo(id=video_id, deleted=task.status.ended)


@router.post(VIDEOS_PATH + "/{video_id}/remix", openapi_extra=body_documentation(RemixRequest))
async def remix_video(
    video_id: str,
    request: Annotated[RemixRequest, Depends(_read_remix)],
    repetition: RepetitionOfHeaders,
    tasks: Replica,
    response: Response,
) -> Video:
    """Make the video again with another prompt; its seed, its image and all other fields stay."""
    source = await tasks.find(video_id)
    image: bytes | None = None
    if source.config.image is not None:
        try:
            image = await asyncio.to_thread(tasks.storage.read, source.config.image.path)
        except FileNotFoundError:
            message = f"The image of video {video_id!r} was removed from the storage; create a video with it instead."
            raise HTTPException(410, message) from None
    again = request.applied(source.config, image, tasks.model)
    return _shown(await tasks.accept(again, repetition, video_id), tasks, response)


@router.get("/v1/models")
async def list_models(tasks: Replica) -> ModelList:
    """Return the served model."""
    return ModelList(data=[await asyncio.to_thread(_model, tasks.model)])


@router.get("/v1/models/{model:path}")
async def retrieve_model(model: str, tasks: Replica) -> Model:
    """Return the served model, if this is its name."""
    if model != tasks.model.name:
        raise HTTPException(404, f"There is no model {model!r}; the served one is {tasks.model.name!r}.")
    return await asyncio.to_thread(_model, tasks.model)


def video_view(task: Task, tasks: Tasks) -> Video:
    """Return ``task`` as a video of OpenAI's API."""
    config = task.config
    done = 100 * task.step // max(1, task.steps or config.num_inference_steps)
    error = ErrorView(code=task.error.code, message=task.error.message) if task.error else None
    return Video(
        **config.model_dump(include=set(TaskConfig.model_fields)),
        id=task.task_id,
        status=_STATUSES[task.status],
        # After the last step the video is still decoded and stored.
        progress=100 if task.status == TaskStatus.SUCCEEDED else min(done, 99),
        created_at=int(task.created_at),
        completed_at=int(task.finished_at) if task.finished_at else None,
        expires_at=int(task.finished_at + tasks.store.ttl_seconds(task.status)) if task.finished_at else None,
        model=task.model or tasks.model.name,
        seconds=seconds_text(config.num_frames, config.fps),
        size=f"{config.width}x{config.height}",
        remixed_from_video_id=task.remixed_from,
        error=_CANCELLED if task.status == TaskStatus.CANCELLED else error,
    )


def _shown(task: Task, tasks: Tasks, response: Response) -> Video:
    if not task.status.ended:
        response.headers["openai-poll-after-ms"] = str(POLL_MS)
    return video_view(task, tasks)


def _model(model: ModelFolder) -> Model:
    try:
        created = int((Path(model.path) / "model_index.json").stat().st_mtime)
    except OSError:
        created = 0
    return Model(id=model.name, created=created)
