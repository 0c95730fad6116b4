"""VideoGenerator: the leader of a gang. One replica drives one gang and runs one task at a time."""

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from ray import serve

from app import runtime
from app.config import AppArgs, ConfigError, Environment, UserConfig, explain
from app.gang.gang import Gang, GangBrokenError, RankSettings, Timeouts
from app.gang.placement import HeadSilentError, leaders_slot
from app.gang.rank import StorageAwayError, TaskFailedError
from app.gang.supervisor import GangSupervisor
from app.log import show_log
from app.media.storage import Storage, StorageError, video_path
from app.model.folder import ModelFolder
from app.tasks.dispatcher import NOT_READY
from app.tasks.store import Started, StoreUnavailableError, TaskError, TaskStore

_log = logging.getLogger(__name__)

_PUBLISH_SECONDS = 1.0
_STORAGE_SECONDS = 30.0
"""The longest pause between two tries to store a finished video."""
_CHECK_SECONDS = 5.0
"""Pause between two checks of a storage that was away."""
_BEAT_SECONDS = 0.5
"""Pause between two heartbeats; a client's cancellation reaches the ranks within this time, too."""


class VideoGenerator:
    """The leader: it holds no model and no GPU, so it outlives its ranks, and it keeps the leases of their tasks.

    Args:
        args: the application's arguments, with ``device`` and ``total_workers`` filled in.

    The locations of model, storage and Redis come from the environment: Serve writes arguments to its logs, and a Redis
    URL may hold a password.

    Raises:
        ConfigError: the environment, the model folder or the storage cannot be used.
    """

    def __init__(self, args: AppArgs) -> None:
        show_log()
        environment = Environment.read(os.environ)
        if args.device is None:
            raise ConfigError("device: it must be filled in before VideoGenerator is built")
        model_path = runtime.model_path(environment)
        self._model = ModelFolder.read(model_path)
        if args.attention_heads not in (None, self._model.heads):
            raise ConfigError(
                f"attention_heads: {args.attention_heads} was given, but the model in {model_path} has "
                f"{self._model.heads}; correct the application's arguments (chart value model.attentionHeads)"
            )
        self._args = args
        self._storage = Storage(environment.storage_uri)
        self._store = runtime.task_store(environment, args)
        self._cluster = runtime.cluster()
        self._id = serve.get_replica_context().replica_id.unique_id
        settings = RankSettings(model_path, environment.storage_uri, args.device, args.rank_cpus, args.model_options())
        gang = Gang(settings, Timeouts(args.step_timeout_seconds, args.load_timeout_seconds, args.rank_timeout_seconds))
        self._supervisor = GangSupervisor(
            gang, self._store, leaders_slot(), self._model.heads, args.resize_timeout_seconds
        )
        self._task_id: str | None = None
        self._storage_problem = ""
        """Why the storage takes no video now; empty if it does."""
        self._background: list[asyncio.Task[None]] = []

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take a new ``total_workers``. The first call forms the gang; later calls only record the number for ``run``.

        Raises:
            ConfigError: at the first call, if the gang cannot be formed.
        """
        if not self._background:
            self._supervisor.record(_target(user_config))
            self._background.append(asyncio.create_task(self._publish()))
            try:
                await self._supervisor.form()
            except (GangBrokenError, HeadSilentError) as error:
                raise ConfigError(f"the gang could not be formed: {error}") from None
            self._background.append(asyncio.create_task(self._supervisor.run()))
            self._background.append(asyncio.create_task(self._check_storage()))
            return
        try:
            self._supervisor.record(_target(user_config))
        except ConfigError as error:
            # Raising here would end the leader and fail the deployment for a mistake in one field.
            self._supervisor.refuse(str(error))

    async def check_health(self) -> None:
        """Raise if the gang cannot be formed again, so that Serve starts a new replica."""
        self._supervisor.check()

    async def generate_task(self, task_config: Mapping[str, Any]) -> dict[str, Any]:
        """Run the task named ``task_config["task_id"]`` to its end, unless another gang runs or ended it.

        Returns:
            ``{"task_id", "status"}`` with ``succeeded``, ``failed`` or ``cancelled``; ``queued`` if the task has to be
            tried again; ``running`` if another gang has it or took it from this one; ``unknown`` if Redis does not
            have it; ``not_ready`` if this gang cannot run a task now and has not started it.
        """
        task_id = str(task_config["task_id"])
        async with self._supervisor.turn:
            # A rank that died or hangs unseen would cost the task an attempt: a probe takes milliseconds.
            if not (self._ready and await self._supervisor.answers()):
                return {"task_id": task_id, "status": NOT_READY}
            holder = f"{self._id}/{uuid.uuid4()}"
            steps = int(task_config.get("num_inference_steps") or 0)
            started = await self._store.start(task_id, self._cluster, holder, steps)
            if not isinstance(started, Started):
                return {"task_id": task_id, "status": started or "unknown"}
            self._task_id = task_id
            self._supervisor.announce()
            try:
                return {"task_id": task_id, "status": await self._run(started)}
            finally:
                self._task_id = None
                self._supervisor.announce()

    async def _run(self, started: Started) -> str:
        if refusal := _refusal(started, self._model.name):
            return await self._fail(started, refusal)
        path = video_path(started.task_id, started.attempt, started.token)
        heartbeat = _Heartbeat(self._store, self._supervisor.gang, started, path, self._args)
        try:
            async with heartbeat:
                video = await self._supervisor.gang.generate(started.config, path)
                if video is not None and not await self._store_video(video, heartbeat):
                    video = None
        except TaskFailedError as error:
            status = await self._fail(started, error)
            await self._supervisor.renew()
            return status
        except StorageAwayError as error:
            self._storage_problem = str(error)
            return await self._give_up(started, str(error), blameless=True)
        except GangBrokenError as error:
            self._supervisor.broken(error)
            if error.task_error:
                return await self._fail(started, error.task_error)
            # A task that stops its gang twice at the same point is no victim of chance.
            kind = f"{error.what} during {error.during}" if error.what == "made no progress" else ""
            return await self._give_up(started, str(error), blameless=error.blameless, kind=kind)
        if video is None and heartbeat.overdue:
            return await self._fail(started, _overdue(self._args.max_task_seconds, self._storage_problem))
        if video is None:
            kept = not heartbeat.lost and await _until_heard(lambda: self._store.stop(started))
            return "cancelled" if kept else "running"
        self._supervisor.worked()
        kept = await _until_heard(lambda: self._store.succeed(started, video))
        await self._sweep(started, keep=video if kept else None)
        return "succeeded" if kept else "running"

    async def _store_video(self, path: str, heartbeat: "_Heartbeat") -> bool:
        """Store the finished video, again and again while the storage is away; False if nobody wants it any more."""
        pause = 1.0
        while not heartbeat.stopped:
            try:
                await self._supervisor.gang.store_video(path)
            except StorageAwayError as error:
                _log.warning("a finished video waits for the storage: %s", error)
                self._storage_problem = str(error)
                self._supervisor.announce()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _STORAGE_SECONDS)
            else:
                self._storage_problem = ""
                return True
        return False

    async def _give_up(self, started: Started, reason: str, *, blameless: bool, kind: str = "") -> str:
        kept = await _until_heard(lambda: self._store.abandon(started, reason, blameless=blameless, kind=kind))
        return "queued" if kept else "running"

    async def _check_storage(self) -> None:
        """Try the storage at the start, and after a failure until it works: a gang that cannot store takes no task."""
        tried = False
        while True:
            if self._task_id is None and (self._storage_problem or not tried):
                tried = True
                try:
                    await asyncio.to_thread(self._storage.check)
                    self._storage_problem = ""
                except StorageError as error:
                    self._storage_problem = str(error)
                    _log.warning("the gang takes no task: %s", error)
                self._supervisor.announce()
            await asyncio.sleep(_CHECK_SECONDS)

    @property
    def _ready(self) -> bool:
        """Whether a task can be started now."""
        return self._supervisor.serving and not self._storage_problem

    async def _fail(self, started: Started, error: TaskFailedError) -> str:
        _log.warning("task %s failed: %s: %s", started.task_id, error.code, error.message)
        kept = await _until_heard(lambda: self._store.fail(started, TaskError(error.code, error.message)))
        return "failed" if kept else "running"

    async def _sweep(self, started: Started, keep: str | None) -> None:
        """Delete the files of other attempts; an attempt that lost its task deletes its own file only."""
        try:
            if keep is None:
                await asyncio.to_thread(
                    self._storage.delete, video_path(started.task_id, started.attempt, started.token)
                )
            elif started.attempt > 1:
                await asyncio.to_thread(self._storage.delete_task, started.task_id, keep)
        except StorageError as error:
            _log.warning("task %s: files of other attempts remain: %s", started.task_id, error)

    async def _publish(self) -> None:
        """Report the gang's state for as long as this process lives; a gang whose report expires counts as dead."""
        ttl = 3 * _PUBLISH_SECONDS
        while True:
            state = self._supervisor.report(gang_id=self._id, cluster=self._cluster, task_id=self._task_id)
            if self._storage_problem:
                reason = f"no task is taken: {self._storage_problem}"
                state = state.model_copy(update={"message": reason, "takes_tasks": False})
            try:
                # A gang that stores its last video is at work, and counts.
                serving = self._ready or self._task_id is not None
                await self._store.publish_gang(state, serving=serving, ttl_seconds=ttl)
            except StoreUnavailableError as error:
                _log.warning("the gang's state could not be published: %s", error)
            await self._supervisor.changed(_PUBLISH_SECONDS)

    async def __del__(self) -> None:
        for task in getattr(self, "_background", []):
            task.cancel()
        with contextlib.suppress(StoreUnavailableError, AttributeError):
            await self._store.retire_gang(self._cluster, self._id)


class _Heartbeat:
    """Renews an attempt's lease while its gang works, and passes on to the gang that it has to stop."""

    def __init__(self, store: TaskStore, gang: Gang, started: Started, path: str, args: AppArgs) -> None:
        self._store = store
        self._gang = gang
        self._started = started
        self._path = path
        self._period = min(_BEAT_SECONDS, args.lease_seconds / 5)
        self._ends = time.monotonic() + args.max_task_seconds
        self._task: asyncio.Task[None] | None = None
        self._over = False
        self.lost = False
        """Whether the attempt lost its task."""
        self.stopped = False
        """Whether the gang was asked to stop: the task is lost, cancelled or overdue."""
        self.overdue = False
        """Whether the task took longer than max_task_seconds."""

    async def __aenter__(self) -> "_Heartbeat":
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        # The flag besides: redis-py (8.1) loses a cancellation that comes in the middle of a call.
        self._over = True
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        while not (self.lost or self._over):
            with contextlib.suppress(StoreUnavailableError):
                verdict = await self._store.beat(self._started, self._gang.step)
                self.lost = verdict == "lost"
                self.overdue = verdict == "ok" and time.monotonic() > self._ends
                self.stopped = verdict != "ok" or self.overdue
                if self.stopped:
                    self._gang.cancel(self._path)
            await asyncio.sleep(self._period)


async def _until_heard(write: Any) -> bool:
    """Repeat a write until Redis has answered it, so that a computed result is never dropped."""
    while True:
        try:
            return bool(await write())
        except StoreUnavailableError as error:
            _log.warning("a task's end waits for Redis: %s", error)
            await asyncio.sleep(0.5)


def _refusal(started: Started, model: str) -> TaskFailedError | None:
    """Return why a gang with this model must not run a task of another release; None if it may."""
    if unknown := started.config.unknown_fields:
        named = ", ".join(unknown)
        return TaskFailedError(
            "unknown_fields",
            f"this release does not know the field(s) {named}, which a newer one accepted; submit the task again",
        )
    if started.model not in (None, model):
        return TaskFailedError(
            "other_model",
            f"the task was accepted for the model {started.model!r}, and the gangs have {model!r} now; submit it again "
            "under another task_id for this model",
        )
    return None


def _overdue(seconds: float, storage_problem: str) -> TaskFailedError:
    limit = f"max_task_seconds ({seconds:g})"
    if storage_problem:
        return TaskFailedError(
            "storage_away", f"the finished video could not be stored within {limit}: {storage_problem}"
        )
    return TaskFailedError(
        "too_long", f"the task took longer than {limit}; ask for fewer frames, steps or pixels, or raise the limit"
    )


def _target(user_config: Mapping[str, Any]) -> int:
    try:
        return UserConfig.model_validate(user_config).total_workers
    except ValidationError as error:
        raise ConfigError(f"VideoGenerator user_config: {explain(error)}") from None
