"""The task store: every state that a task can be in, and the only moves between them.

A task waits in a sorted set by its number of arrival. ``take`` hands the oldest one to a dispatcher, ``start`` gives a
leader the next attempt at it and a lease, ``beat`` renews the lease, ``finish`` ends attempt and task. A holder whose
lease was reclaimed no longer owns the task. Each move is one Lua script (``scripts``), so no process sees half of one.
``keys`` lists what is stored in Redis.
"""

import builtins
import hashlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, Self, cast

from pydantic import ValidationError
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, LockError, NoPermissionError, RedisError, TimeoutError

from app.config import explain
from app.tasks import scripts
from app.tasks.gang_state import GangState
from app.tasks.keys import PREFIX, Key
from app.tasks.task_config import TaskConfig

_log = logging.getLogger(__name__)
_CONNECTIONS = 50
_PLACE_MS = 3600 * 1000
MOST_DEATHS = 5
"""Gangs that a task may lose. At the next loss it is taken for their cause, and fails with code gang_lost."""


class StoreUnavailableError(ConnectionError):
    """Redis did not answer, or refused. The call may or may not have taken effect; every call is safe to repeat."""


class StoreRefusedError(StoreUnavailableError):
    """This store must not be used: its keys are another release's, or its server would lose tasks. The message says
    which and what to do."""


class UnreadableTaskError(ValueError):
    """The record of a task is not one that this version can read. The message names the task and the reason."""


class TaskStatus(StrEnum):
    """The state of a task, as the store keeps it and a client sees it."""

    QUEUED = "queued"
    """The task waits for a gang: it was not started yet, or its last attempt was lost and it will be started again."""
    RUNNING = "running"
    """A leader holds a lease on the task, and its gang makes the video."""
    SUCCEEDED = "succeeded"
    """The task ended, and its video is in the storage."""
    FAILED = "failed"
    """The task ended without a video: by its own error, or because it lost too many gangs. ``Task.error`` says why."""
    CANCELLED = "cancelled"
    """The task ended without a video because a client cancelled it."""

    @property
    def ended(self) -> bool:
        """Whether the status can no longer change."""
        return self not in (TaskStatus.QUEUED, TaskStatus.RUNNING)


@dataclass(frozen=True)
class TaskError:
    """Why a task failed: ``code`` for programs, ``message`` for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Task:
    """One task at the time it was read. Times are seconds since the epoch; ``video`` is a path inside the storage."""

    task_id: str
    status: TaskStatus
    config: TaskConfig
    sequence: int
    attempt: int
    step: int
    steps: int
    created_at: float
    started_at: float | None
    finished_at: float | None
    error: TaskError | None
    video: str | None
    model: str | None = None
    """Name of the model that the task was submitted to; None in tasks of older releases."""
    remixed_from: str | None = None
    """The id of the task whose request this one repeats with another prompt."""

    @classmethod
    def new(cls, task_id: str, config: TaskConfig, sequence: int, created_at: float) -> Self:
        """Return a task as it is right after it was accepted."""
        return cls(task_id, TaskStatus.QUEUED, config, sequence, 0, 0, 0, created_at, None, None, None, None)

    @classmethod
    def from_hash(cls, fields: Mapping[str, str]) -> Self:
        """Return the task whose Redis hash has these ``fields``.

        Raises:
            UnreadableTaskError: a field is missing, or has a value that no version before this one has written.
        """
        try:
            return cls._parsed(fields)
        except (KeyError, ValueError, OverflowError) as error:
            name = fields.get("task_id", "without an id")
            raise UnreadableTaskError(f"task {name!r}: {type(error).__name__}: {error}") from error

    @classmethod
    def _parsed(cls, fields: Mapping[str, str]) -> Self:
        error = TaskError(fields["error_code"], fields["error_message"]) if "error_code" in fields else None
        return cls(
            task_id=fields["task_id"],
            status=TaskStatus(fields["status"]),
            config=TaskConfig.model_validate_json(fields["config"]),
            sequence=int(fields["seq"]),
            attempt=int(fields["attempt"]),
            step=int(fields["step"]),
            steps=int(fields["steps"]),
            created_at=float(fields["created_at"]),
            started_at=float(fields["started_at"]) if "started_at" in fields else None,
            finished_at=float(fields["finished_at"]) if "finished_at" in fields else None,
            error=error,
            video=fields.get("video"),
            model=fields.get("model"),
            remixed_from=fields.get("remixed_from"),
        )


@dataclass(frozen=True)
class Alias:
    """Another name of a submission, under which a repetition finds the task although it does not know its id."""

    name: str
    seconds: float
    """How long the name lasts, from the submission that made the task."""
    finds: bool
    """Whether a task of this name is looked for; if not, the name goes to a new task."""


class SubmissionOutcome(StrEnum):
    """The answer to a submission."""

    CREATED = "created"
    """The task was accepted and waits in the queue."""
    EXISTS = "exists"
    """A task of this id or alias, and of this body, was accepted before; nothing changed."""
    CONFLICT = "conflict"
    """A task of this id or alias with another body was accepted before; this one was refused."""
    FULL = "full"
    """As many tasks wait as may wait; this one was refused."""
    NO_MEMORY = "no_memory"
    """Redis has nine tenths of its memory in use, and the rest is for the tasks that exist; this one was refused."""


@dataclass(frozen=True)
class Submission:
    """The outcome of a submission, and the accepted task; None if the submission was refused."""

    outcome: SubmissionOutcome
    task: Task | None


@dataclass(frozen=True)
class Started:
    """An attempt that a leader holds. Number and token fence all its later moves."""

    task_id: str
    attempt: int
    token: str
    """Random. After a Redis fail-over that lost a ``start``, two leaders hold the same number, but not the same token.
    """
    config: TaskConfig
    model: str | None
    """Name of the model for which the task was accepted; None in tasks of older releases."""


class TaskStore:
    """The tasks below one prefix of keys in a Redis database.

    Args:
        redis: a client that decodes responses; ``TaskStore.connect`` makes one.
        lease_seconds: how long a holder keeps a taken or running task without a ``beat``.
        task_ttl_seconds: how long an ended task is kept.
        video_ttl_seconds: how long a succeeded task is kept, with its video; 0 or left out: as any other task.
        max_queued_tasks: how many tasks may wait.
        prefix: begins every key.
        release: the name of the release whose keys these are; empty if it has none.
    """

    def __init__(
        self,
        redis: "Redis",
        *,
        lease_seconds: float,
        task_ttl_seconds: float,
        video_ttl_seconds: float = 0,
        max_queued_tasks: int,
        prefix: str = PREFIX,
        release: str = "",
    ) -> None:
        self._redis = redis
        self._prefix = prefix
        self._release = release
        self._claimed = False
        self._lease_ms = int(lease_seconds * 1000)
        self._ttl_ms = int(task_ttl_seconds * 1000)
        self._video_ttl_ms = int(video_ttl_seconds * 1000) or self._ttl_ms
        self._max_queued = max_queued_tasks
        self._published = ""
        """The state that this process published last."""
        self._scripts: dict[str, Callable[..., Awaitable[Any]]] = {}

    @classmethod
    def connect(cls, url: str, **options: Any) -> Self:
        """Return a store on the server at ``url``; the first call connects. The options are ``TaskStore``'s."""
        retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=3)
        # If all connections are in use, a call waits for one; redis-py's default pool would raise at its limit.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=10,
            decode_responses=True,
            socket_timeout=5,
            socket_connect_timeout=2,
            health_check_interval=15,
            retry=retry,
            retry_on_error=[ConnectionError, TimeoutError],
        )
        return cls(Redis.from_pool(pool), **options)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def ping(self) -> None:
        """Raise ``StoreUnavailableError`` unless Redis answers."""
        with _unavailable():
            await self._redis.ping()

    async def claim(self) -> None:
        """Make sure that this release may keep its tasks here. A first call of any other method does the same.

        Raises:
            StoreRefusedError: another release has the keys of this prefix; or the server is in cluster mode, where a
                script cannot reach all keys of the store; or it may evict keys, and tasks with them.
            StoreUnavailableError: Redis did not answer.
        """
        with _unavailable():
            # A user of the server may be forbidden to ask; then nothing is known, and nothing is refused.
            with suppress(NoPermissionError):
                _check_server(await self._redis.info())
            owner = await self._script("claim")(keys=[self._prefix], args=[self._release])
        if owner:
            raise StoreRefusedError(
                f"the keys {self._prefix}* of this Redis belong to release {owner!r}, and this is release "
                f"{self._release!r}; give each release its own REDIS_PREFIX (chart value redis.keyPrefix), or delete "
                f"the key {Key.OWNER.full(prefix=self._prefix)!r} if that release no longer exists"
            )
        self._claimed = True

    # Clients

    def ttl_seconds(self, status: TaskStatus) -> float:
        """Return how long a task that ended with ``status`` is kept."""
        return self._ttl_of(status) / 1000

    async def submit(
        self,
        task_id: str,
        body: Mapping[str, Any],
        config: TaskConfig,
        *,
        alias: Alias | None = None,
        chosen: bool = True,
        model: str | None = None,
        remixed_from: str | None = None,
    ) -> Submission:
        """Accept a task once.

        Args:
            task_id: the task's name; a second submission of the same name and ``body`` returns the first one's task.
            body: the fields the client set; they tell a repetition from a conflict.
            config: the complete request, which the gang will run.
            alias: another name of the submission. If it finds a task, that task stands for ``task_id``.
            chosen: whether the client chose ``task_id``; an alias of a task with another id is then a conflict.
            model: name of the model that will run it.
            remixed_from: the id of the task whose request this one repeats with another prompt.
        """
        text = json.dumps(config.model_dump(), ensure_ascii=False, sort_keys=True)
        created_at = time.time()
        name, ttl_ms, look = "", 0, "no"
        if alias:
            name, ttl_ms = alias.name, int(alias.seconds * 1000)
            look = "no" if not alias.finds else "id" if chosen else "any"
        about = {key: value for key, value in {"model": model, "remixed_from": remixed_from}.items() if value}
        task = (task_id, digest(body), text, created_at, self._max_queued)
        reply = await self._run("submit", *task, name, ttl_ms, look, *_flat(about))
        outcome = SubmissionOutcome(reply[0])
        if outcome is SubmissionOutcome.CREATED:
            new = Task.new(task_id, config, int(reply[1]), created_at)
            return Submission(outcome, replace(new, model=model, remixed_from=remixed_from))
        return Submission(outcome, await self.get(reply[1]) if outcome is SubmissionOutcome.EXISTS else None)

    async def get(self, task_id: str) -> Task | None:
        """Return the task; None if it is unknown or was forgotten.

        Raises:
            UnreadableTaskError: its record cannot be read.
        """
        await self._claim_once()
        with _unavailable():
            fields = await cast("Awaitable[dict[str, str]]", self._redis.hgetall(self._key(Key.TASK, task_id)))
        return Task.from_hash(fields) if fields else None

    async def page(
        self,
        status: TaskStatus | None = None,
        limit: int = 50,
        before: int | None = None,
        *,
        oldest_first: bool = False,
    ) -> tuple[list[Task], int | None]:
        """Return up to ``limit`` tasks, newest first, and ``before`` for the next page; None on the last page.

        With ``oldest_first`` the order is the other one, and ``before`` names the task after which the page begins.

        A task whose record cannot be read is left out, and the log names it.
        """
        await self._claim_once()
        name = self._key(Key.TASKS_BY_STATUS, status) if status else self._key(Key.TASKS)
        first, last = ("-inf", "+inf") if oldest_first else ("+inf", "-inf")
        begin = f"({before}" if before is not None else first
        with _unavailable():
            found = self._redis.zrange(
                name, begin, last, byscore=True, desc=not oldest_first, offset=0, num=limit + 1, withscores=True
            )
            places = await cast("Awaitable[list[tuple[str, float]]]", found)
            async with self._redis.pipeline(transaction=False) as pipeline:
                for task_id, _ in places[:limit]:
                    pipeline.hgetall(self._key(Key.TASK, task_id))
                hashes = await pipeline.execute()
        tasks = []
        for fields in filter(None, hashes):
            try:
                tasks.append(Task.from_hash(fields))
            except UnreadableTaskError as error:
                _log.warning("left out of a list of tasks, since its record cannot be read: %s", error)
        return tasks, int(places[limit - 1][1]) if len(places) > limit else None

    async def cancel(self, task_id: str) -> Task | None:
        """Cancel a queued task at once; ask a running one to stop at its next step. Return it, None if unknown."""
        await self._run("cancel", task_id, time.time(), self._ttl_ms)
        return await self.get(task_id)

    async def expired(self, limit: int = 100, again_seconds: float = 60) -> list[str]:
        """Return the ids of up to ``limit`` ended tasks older than their time to live.

        While Redis has three quarters of its memory in use, the oldest cancelled and failed tasks come before their
        time.

        The caller deletes their files and then calls ``forget``. A task that is not forgotten, since its files could
        not be deleted, is returned again after ``again_seconds``.
        """
        return cast(list[str], await self._run("expired", limit, int(again_seconds * 1000)))

    async def forget(self, task_id: str) -> None:
        """Delete the record of an ended task. Its files must be gone: a new task may then take the same id."""
        await self._run("forget", task_id, _PLACE_MS)

    async def place(self, task_id: str) -> int | None:
        """Return where ``page`` goes on after the task; None if it is unknown or was forgotten an hour ago."""
        await self._claim_once()
        with _unavailable():
            place = await self._redis.zscore(self._key(Key.TASKS), task_id)
            if place is not None:
                return int(place)
            gone = await cast("Awaitable[str | None]", self._redis.get(self._key(Key.FORGOTTEN, task_id)))
        return int(gone) if gone is not None else None

    # Dispatchers

    async def take(self, cluster: str, holder: str) -> tuple[str, dict[str, Any]] | None:
        """Take the oldest task that may run: its id and config, or None.

        None if another cluster has the newest live release, if ``cluster`` holds as many tasks as it has serving gangs,
        or if no task waits. Tasks whose lease expired go back into the queue here, at their old place.
        """
        taken = await self._run("take", cluster, holder, self._lease_ms, time.time(), self._ttl_ms, MOST_DEATHS)
        return (taken[0], json.loads(taken[1])) if taken else None

    async def give_back(self, task_id: str, holder: str) -> None:
        """Put a taken task back, unless a leader has started it or ``holder`` no longer holds it."""
        await self._run("give_back", task_id, holder)

    async def wakeups(self) -> AsyncIterator[None]:
        """Yield whenever a task may have become ready to take, until ``StoreUnavailableError``."""
        with _unavailable():
            async with self._redis.pubsub() as channel:
                await channel.subscribe(self._key(Key.WAKE))
                while True:
                    if await channel.get_message(timeout=None):
                        yield

    # Leaders

    async def start(self, task_id: str, cluster: str, holder: str, steps: int) -> Started | TaskStatus | None:
        """Begin the next attempt at a queued task. A repeated call of the same ``holder`` gets the same attempt.

        Returns:
            the attempt; the status of a task that another leader runs or that ended; None if the task is unknown.
        """
        reply = await self._run(
            "start", task_id, cluster, holder, self._lease_ms, time.time(), steps, secrets.token_hex(8)
        )
        if reply[0] == "started":
            attempt, token = int(reply[1]), str(reply[2])
            try:
                return Started(task_id, attempt, token, TaskConfig.model_validate_json(reply[3]), reply[4])
            except ValidationError as error:
                words = {
                    "error_code": "damaged_record",
                    "error_message": f"the stored request is damaged: {explain(error)}",
                }
                end = (TaskStatus.FAILED, time.time(), self._ttl_ms)
                await self._run("finish", task_id, attempt, token, *end, *_flat(words))
                return TaskStatus.FAILED
        return None if reply[0] == "unknown" else TaskStatus(reply[0])

    async def beat(self, attempt: Started, step: int) -> Literal["ok", "cancel", "lost"]:
        """Renew the lease and record ``step``.

        Returns:
            ``ok``; ``cancel`` if a client cancelled the task, which must then be stopped; ``lost`` if the attempt no
            longer owns the task and must write nothing more.
        """
        reply = await self._run("beat", attempt.task_id, attempt.attempt, attempt.token, self._lease_ms, step)
        return cast('Literal["ok", "cancel", "lost"]', reply)

    async def succeed(self, attempt: Started, video: str) -> bool:
        """End the task with its video at the storage path ``video``; False if the attempt no longer owns the task."""
        return await self._finish(attempt, TaskStatus.SUCCEEDED, video=video)

    async def fail(self, attempt: Started, error: TaskError) -> bool:
        """End the task with the error; False if the attempt no longer owns the task."""
        return await self._finish(attempt, TaskStatus.FAILED, error_code=error.code, error_message=error.message)

    async def stop(self, attempt: Started) -> bool:
        """End the task as cancelled; False if the attempt no longer owns the task."""
        return await self._finish(attempt, TaskStatus.CANCELLED)

    async def abandon(self, attempt: Started, reason: str, *, blameless: bool = False, kind: str = "") -> bool:
        """Give the attempt up because its gang broke: queue the task again, or fail it after too many losses.

        Args:
            attempt: the attempt, which ends.
            reason: for people.
            blameless: whether no task can have caused it; the loss then does not count against the task.
            kind: if given, a second end of the same kind fails the task, since a third attempt would end likewise.

        Returns:
            False if the attempt no longer owned the task.
        """
        own = (attempt.task_id, attempt.attempt, attempt.token)
        words = (reason, time.time(), self._ttl_ms, MOST_DEATHS, int(blameless), kind)
        return bool(await self._run("abandon", *own, *words))

    async def _finish(self, attempt: Started, status: TaskStatus, **fields: str) -> bool:
        own = (attempt.task_id, attempt.attempt, attempt.token)
        return bool(await self._run("finish", *own, status, time.time(), self._ttl_of(status), *_flat(fields)))

    def _ttl_of(self, status: TaskStatus) -> int:
        return self._video_ttl_ms if status == TaskStatus.SUCCEEDED else self._ttl_ms

    # Gangs and releases

    async def publish_gang(self, state: GangState, *, serving: bool, ttl_seconds: float) -> None:
        """Report that a gang lives and its state, for ``ttl_seconds``; ``take`` counts the ``serving`` gangs.

        A state that did not change is not written again: 64 ranks take 12 KB, and the file is synced at each write.
        """
        text = state.model_dump_json()
        words = (state.cluster, state.id, int(serving), int(ttl_seconds * 1000))
        if text == self._published and await self._run("publish_gang", *words, ""):
            return
        await self._run("publish_gang", *words, text)
        self._published = text

    async def retire_gang(self, cluster: str, gang: str) -> None:
        """Remove the state of a gang that stops."""
        await self._run("retire_gang", cluster, gang)

    async def gangs(self, cluster: str) -> list[GangState]:
        """Return the published state of every live gang of ``cluster``, ordered by name."""
        await self._claim_once()
        with _unavailable():
            names = sorted(await cast("Awaitable[list[str]]", self._redis.zrange(self._key(Key.GANGS, cluster), 0, -1)))
            states = await self._redis.mget([self._key(Key.GANG, name) for name in names]) if names else []
        return [GangState.model_validate_json(state) for state in states if state]

    async def keep_epoch(self, cluster: str, *, complete: bool, ttl_seconds: float) -> int:
        """Keep the release in ``cluster`` alive for ``ttl_seconds`` if it has a serving gang.

        Args:
            cluster: the Ray cluster that the release runs in.
            complete: whether every gang of the release is up; only then it gets its epoch.
            ttl_seconds: how long the release counts as alive without another call.

        Returns:
            the release's epoch; 0 while it has none.
        """
        return int(await self._run("keep_epoch", cluster, int(complete), int(ttl_seconds * 1000)))

    @asynccontextmanager
    async def lock(self, name: str, *, hold_seconds: float, wait_seconds: float) -> AsyncIterator[None]:
        """Hold the lock ``name`` among all processes, for ``hold_seconds`` at most.

        Raises:
            TimeoutError: it was not free within ``wait_seconds``.
            StoreUnavailableError: Redis did not answer.
        """
        lock = self._redis.lock(self._key(Key.LOCK, name), timeout=hold_seconds, blocking_timeout=wait_seconds)
        with _unavailable():
            if not await lock.acquire():
                raise builtins.TimeoutError(f"lock {name!r} was not free within {wait_seconds:g} s")
        try:
            yield
        finally:
            # A lock that was held too long has expired, and another process may hold it now.
            with suppress(LockError), _unavailable():
                await lock.release()

    async def _run(self, name: str, *args: str | int | float) -> Any:
        await self._claim_once()
        with _unavailable():
            return await self._script(name)(keys=[self._prefix], args=args)

    async def _claim_once(self) -> None:
        if not self._claimed:
            await self.claim()

    def _script(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name not in self._scripts:
            self._scripts[name] = self._redis.register_script(scripts.source(name))
        return self._scripts[name]

    def _key(self, key: Key, name: str = "") -> str:
        return key.full(name, self._prefix)


def digest(body: Mapping[str, Any]) -> str:
    """Return what tells a request's body from all others."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _check_server(info: Mapping[str, Any]) -> None:
    """Raise ``StoreRefusedError`` if ``info``, a server's answer to INFO, is of one that cannot keep tasks."""
    mode = info.get("redis_mode") or info.get("server_mode") or "standalone"  # Redis and Valkey name it differently.
    if mode != "standalone":
        raise StoreRefusedError(
            f"this Redis runs in {mode} mode, in which the task store's scripts cannot reach their keys; use the "
            "primary of a server without cluster mode (chart values redis.external.*)"
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys") and info.get("maxmemory"):
        raise StoreRefusedError(
            f"this Redis evicts keys when its memory is full (maxmemory-policy {policy}), accepted tasks too; set its "
            "maxmemory-policy to noeviction"
        )


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [word for pair in fields.items() for word in pair]


class _unavailable:
    """Raises ``StoreUnavailableError``, with a message for a log, in place of redis-py's errors."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RedisError) and not isinstance(error, StoreUnavailableError | LockError):
            raise StoreUnavailableError(f"Redis: {type(error).__name__}: {error}") from error
