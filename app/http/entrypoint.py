"""APIEntrypoint: the HTTP deployment. It accepts and shows tasks; the gangs run them."""

import asyncio
import logging
import os
import uuid
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import FileResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import DeploymentStatus
from starlette.exceptions import HTTPException

from app import runtime
from app.config import AppArgs, Environment
from app.http import openai_api
from app.http.application import SUBMIT_PATH, create_api
from app.http.content import Contents, Variant
from app.http.generate_request import GenerateRequest, InvalidRequestError
from app.http.middleware import root_path
from app.http.repetition import Repetition, RepetitionOfHeaders
from app.http.request_body import BODY_DOCUMENTATION, read_request
from app.http.views import Readiness, TaskPage, TaskView, task_url, view
from app.log import show_log
from app.media import images
from app.media.storage import Storage, StorageError, new_image_path
from app.model.folder import ModelFolder
from app.tasks.dispatcher import Dispatcher
from app.tasks.gang_state import GangState, is_complete
from app.tasks.store import (
    StoreRefusedError,
    StoreUnavailableError,
    Submission,
    SubmissionOutcome,
    Task,
    TaskStatus,
    TaskStore,
)
from app.tasks.task_config import TaskConfig, TaskImage

_log = logging.getLogger(__name__)


def _cors_origins() -> tuple[str, ...]:
    """Return the origins that this replica's arguments allow."""
    return getattr(serve.get_replica_context().servable_object, "cors_origins", ())


api = create_api(cors_origins=_cors_origins)
api.include_router(openai_api.router)

_FULL_RETRY_SECONDS = 30
_NO_MEMORY_RETRY_SECONDS = 60


# Above the class: serve.ingress copies the routes, and the copies see only names that are defined by then.
def _known(task: Task | None, task_id: str) -> Task:
    if task is None:
        message = (
            f"There is no task {task_id!r}. GET /generate lists all; an ended one is deleted by DELETE or after "
            "video_ttl_seconds or, without a video, task_ttl_seconds."
        )
        raise HTTPException(404, message)
    return task


async def _root(request: Request) -> str:
    return root_path(request.scope)


Root = Annotated[str, Depends(_root)]


async def _replicas_of_healthy_generator() -> int:
    """Return how many VideoGenerator replicas run; 0 unless they are all that Serve wants."""
    status = await asyncio.to_thread(serve.status)
    application = status.applications.get(serve.get_replica_context().app_name)
    generator = application.deployments.get("VideoGenerator") if application else None
    if generator is None or generator.status != DeploymentStatus.HEALTHY:
        return 0
    return sum(generator.replica_states.values())


@serve.ingress(api)
class APIEntrypoint:
    """Answers HTTP and dispatches tasks. Redis holds all tasks, so any replica answers for any task.

    Args:
        generator_handle: the VideoGenerator deployment.
        args: the application's arguments. Model path, Redis and storage come from the environment.

    Raises:
        ConfigError: the environment or the model folder cannot be used.
        StoreRefusedError: Redis cannot be used by this release. A Redis that does not answer is waited for instead.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it, so that background tasks have a running loop.
        self, generator_handle: DeploymentHandle, args: AppArgs
    ) -> None:
        show_log()
        environment = Environment.read(os.environ)
        self.generator_handle = generator_handle
        self._model = await asyncio.to_thread(lambda: ModelFolder.read(runtime.model_path(environment)))
        self._storage = Storage(environment.storage_uri)
        self._store = await asyncio.to_thread(runtime.task_store, environment, args)
        try:
            await self._store.claim()
        except StoreRefusedError:
            raise
        except StoreUnavailableError as error:
            _log.warning("the task store does not answer yet: %s", error)
        self._contents = Contents()
        self._cluster = runtime.cluster()
        self._max_queued_tasks = args.max_queued_tasks
        self._max_request_cost = args.max_request_cost
        self.cors_origins = tuple(args.cors_origins.split(",")) if args.cors_origins else ()
        self._dispatcher = Dispatcher(
            self._store,
            cluster=self._cluster,
            name=serve.get_replica_context().replica_id.unique_id,
            deliver=self._deliver,
            complete=self._is_complete,
            delete_files=lambda task_id, keep: asyncio.to_thread(self._storage.delete_task, task_id, keep),
            lease_seconds=args.lease_seconds,
            keep_videos=not args.video_ttl_seconds,
        )

    @api.post(SUBMIT_PATH, status_code=202, openapi_extra=BODY_DOCUMENTATION)
    async def generate(
        self,
        request: Annotated[GenerateRequest, Depends(read_request)],
        repetition: RepetitionOfHeaders,
        root: Root,
        response: Response,
    ) -> TaskView:
        """Accept a task. A repeated call with the same ``task_id`` and body returns the task that exists."""
        task = await self.accept(request, repetition)
        response.headers["Location"] = task_url(task.task_id, root)
        return view(task, root)

    @api.get("/generate")
    async def list_tasks(
        self,
        root: Root,
        status: TaskStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        cursor: Annotated[int | None, Query(ge=0)] = None,
    ) -> TaskPage:
        """Return tasks, newest first."""
        tasks, following = await self._store.page(status, limit, cursor)
        return TaskPage(tasks=[view(task, root) for task in tasks], cursor=str(following) if following else None)

    @api.get("/generate/{task_id}")
    async def show(self, task_id: str, root: Root) -> TaskView:
        return view(await self.find(task_id), root)

    @api.delete("/generate/{task_id}")
    async def cancel(self, task_id: str, root: Root) -> TaskView:
        """Cancel a queued task at once and a running one at its next step; delete an ended one with its files."""
        task = await self.find(task_id)
        if not task.status.ended:
            return view(await self.stop(task), root)
        await self.delete(task)
        return view(task, root)

    @api.get("/generate/{task_id}/video", response_class=FileResponse, responses={304: {"description": "Unchanged"}})
    async def video(self, task_id: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """Return the mp4; a Range header is honoured, and If-None-Match with its ETag is answered 304."""
        return await self.content(await self.find(task_id), Variant.VIDEO, if_none_match)

    @api.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Answer as long as this process lives; neither Redis nor a gang is asked."""
        return {"status": "ok"}

    @api.get("/readyz", responses={503: {"model": Readiness}})
    async def readyz(self, response: Response) -> Readiness:
        """Say whether a task would run now, and how each gang of this cluster is."""
        gangs: list[GangState] = []
        message = ""
        try:
            gangs = await self._store.gangs(self._cluster)
        except StoreRefusedError as error:
            message = str(error)
        except StoreUnavailableError:
            message = "the task store (Redis) does not answer"
        ready = any(gang.takes_tasks for gang in gangs)
        if not ready:
            response.status_code = 503
            message = message or next((gang.message for gang in gangs if gang.message), "no gang has started yet")
        return Readiness(ready=ready, cluster=self._cluster, message=message, gangs=gangs)

    async def __del__(self) -> None:
        if hasattr(self, "_dispatcher"):
            await self._dispatcher.close()
            await self._store.close()

    @property
    def store(self) -> TaskStore:
        return self._store

    @property
    def storage(self) -> Storage:
        return self._storage

    @property
    def model(self) -> ModelFolder:
        return self._model

    async def find(self, task_id: str) -> Task:
        """Return the task.

        Raises:
            HTTPException: there is none (404).
        """
        return _known(await self._store.get(task_id), task_id)

    async def accept(self, request: GenerateRequest, repetition: Repetition, remixed_from: str | None = None) -> Task:
        """Accept a task, or find the one that the same submission made before.

        Raises:
            InvalidRequestError: the model cannot run the request.
            HTTPException: it is a repetition with another body (409), the queue is full (429), or so is Redis
                (503).
        """
        task_id = request.task_id or uuid.uuid4().hex
        submission = await self._submit(task_id, request, repetition, remixed_from)
        if submission.outcome == SubmissionOutcome.CONFLICT:
            message = (
                f"Idempotency-Key: A task with this key and another body or task_id exists; repeat its request, or "
                f"choose another key{' and another task_id' if request.task_id else ''}."
                if repetition.key
                else f"task_id: A task {task_id!r} with another body exists; send its body or choose another task_id."
            )
            raise HTTPException(409, message)
        if submission.outcome == SubmissionOutcome.FULL:
            message = (
                f"The queue is full: {self._max_queued_tasks} tasks wait, as many as max_queued_tasks allows. "
                f"Try again in {_FULL_RETRY_SECONDS} seconds."
            )
            raise HTTPException(429, message, {"Retry-After": str(_FULL_RETRY_SECONDS)})
        if submission.outcome == SubmissionOutcome.NO_MEMORY:
            message = (
                "The task store (Redis) is nearly full, and keeps the rest of its memory for the tasks that it has. "
                f"Try again in {_NO_MEMORY_RETRY_SECONDS} seconds, when cancelled and failed tasks are gone. If that "
                "does not help, delete ended tasks (DELETE), lower task_ttl_seconds, or give Redis more memory "
                "(maxmemory; chart value redis.resources.limits.memory)."
            )
            raise HTTPException(503, message, {"Retry-After": str(_NO_MEMORY_RETRY_SECONDS)})
        return _known(submission.task, task_id)

    async def content(self, task: Task, variant: Variant, if_none_match: str | None) -> Response:
        """Return the answer with a file of the task (``Contents.response``)."""
        return await self._contents.response(self._storage, task, variant, if_none_match)

    async def stop(self, task: Task) -> Task:
        """Cancel a task that has not ended: at once if it waits, at its next step if it runs."""
        return _known(await self._store.cancel(task.task_id), task.task_id)

    async def delete(self, task: Task) -> None:
        """Delete an ended task with its files."""
        # Files go before the record: once it is gone, a new task may take the same id.
        await asyncio.to_thread(self._storage.delete_task, task.task_id)
        await self._store.forget(task.task_id)

    async def _submit(
        self, task_id: str, request: GenerateRequest, repetition: Repetition, remixed_from: str | None
    ) -> Submission:
        """Store the request's image, then the task: whichever process dies, an accepted task has its image."""

        async def submit(body: dict[str, Any], config: TaskConfig) -> Submission:
            about = {"remixed_from": remixed_from} if remixed_from else {}
            return await self._store.submit(
                task_id,
                body | about,
                config,
                alias=repetition.alias(body | about),
                chosen=request.task_id is not None,
                model=self._model.name,
                **about,
            )

        if request.image is None:
            return await submit(request.body(), await self._complete(request))
        try:
            facts = await asyncio.to_thread(images.inspect, request.image)
        except images.InvalidImageError as error:
            raise InvalidRequestError("image", str(error)) from None
        image = TaskImage(**facts.as_dict(), path=new_image_path(task_id))
        config = await self._complete(request, image)
        await asyncio.to_thread(self._storage.write, request.image, image.path)
        submission = await submit(request.body(image), config)
        kept = submission.task.config.image if submission.task else None
        if kept is None or kept.path != image.path:
            try:
                await asyncio.to_thread(self._storage.delete, image.path)
            except StorageError as error:
                _log.warning("an image that no task uses stays in the storage: %s", error)
        return submission

    async def _complete(self, request: GenerateRequest, image: TaskImage | None = None) -> TaskConfig:
        # In a thread: the first long prompt loads the tokenizer.
        return await asyncio.to_thread(request.complete, self._model, image, max_cost=self._max_request_cost)

    async def check_health(self) -> None:
        """Raise if tasks are no longer dispatched here, so that Serve starts a new replica."""
        self._dispatcher.check()

    async def _is_complete(self) -> bool:
        """Return whether this release may take over: every gang that Serve wants has all its ranks."""
        return is_complete(await self._store.gangs(self._cluster), await _replicas_of_healthy_generator())

    async def _deliver(self, task_config: dict[str, Any]) -> str:
        reply = await self.generator_handle.generate_task.remote(task_config)
        return str(reply["status"])
