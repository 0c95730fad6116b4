"""The HTTP service on loopback: its real routes over a real Redis, with a leader that is played. No Ray, no gang."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
import uvicorn
from starlette.types import Receive, Scope, Send

from app import runtime
from app.http.entrypoint import api
from app.media.storage import Storage, video_path
from app.model.folder import ModelFolder
from app.tasks.store import Started, TaskError, TaskStore
from testing.ports import free_port
from testing.records import gang_state
from testing.replica import Routes
from testing.waiting import until_async

T = TypeVar("T")
Play = Callable[["Served", Started], Awaitable[None]]
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 300


class Served:
    """One service at a URL, which can be stopped and started again while Redis keeps its tasks."""

    def __init__(self, redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lost_answers = 0
        """How many of the next answers do not reach their client."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: uvicorn.Server | None = None
        self._plays: list[Future[None]] = []
        self.store = self.do(self._connect(redis_url))
        model = replace(ModelFolder.read(str(runtime.local_model())), image="optional")
        self.routes = Routes.over(self.store, Storage(f"file://{folder}"), model)
        self.routes.serve(monkeypatch)

    @staticmethod
    async def _connect(url: str) -> TaskStore:
        return TaskStore.connect(url, lease_seconds=30, task_ttl_seconds=600, max_queued_tasks=50)

    def do(self, step: Coroutine[Any, Any, T]) -> T:
        """Run a step on the service's event loop and return its result."""
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(30)

    async def come_back(self) -> None:
        """Listen at the port."""
        config = uvicorn.Config(self._app, port=self.port, log_level="critical", lifespan="off", interface="asgi3")
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve())
        await until_async("the service listens", self._listens)

    async def go_away(self) -> None:
        """Stop to listen and close all connections, as a pod that ends."""
        assert self._server
        self._server.should_exit = True
        await self._serving

    async def break_down(self, connections: int) -> None:
        """Go away, cut so many connections at once, and come back."""
        await self.go_away()
        cut = 0

        def cut_off(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal cut
            cut += 1
            writer.close()

        async def enough() -> bool:
            return cut >= connections

        async with await asyncio.start_server(cut_off, "127.0.0.1", self.port):
            await until_async("clients come", enough)
        await self.come_back()

    async def _listens(self) -> bool:
        return bool(self._server and self._server.started)

    def close(self) -> None:
        """End everything; raise what went wrong in a play."""
        try:
            for play in self._plays:
                play.result(10)
        finally:
            self.do(self.go_away())
            self.do(self.store.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.lost_answers and scope["path"] != "/healthz":
            self.lost_answers -= 1

            async def lose(_: Any) -> None:
                pass

            await api(scope, receive, lose)
            # Without an answer uvicorn makes one of status 500.
            return
        await api(scope, receive, send)

    def lead(self, *plays: Play) -> None:
        """Let a leader take one task and do ``plays`` with it, while the test goes on."""
        self._plays.append(asyncio.run_coroutine_threadsafe(self._lead(plays), self._loop))

    async def gang(self) -> None:
        """Publish a gang that is ready."""
        await self.store.publish_gang(gang_state("gang", "here"), serving=True, ttl_seconds=60)

    async def _lead(self, plays: tuple[Play, ...]) -> None:
        await self.gang()
        taken = await until_async("there is a task", lambda: self.store.take("here", "dispatcher"))
        started = await self.store.start(taken[0], "here", "leader", 4)
        assert isinstance(started, Started)
        for play in plays:
            await play(self, started)


def step(number: int) -> Play:
    """Return the play of one step."""

    async def play(served: Served, started: Started) -> None:
        assert await served.store.beat(started, number) == "ok"

    return play


async def succeed(served: Served, started: Started) -> None:
    """Store the video and end the task."""
    path = video_path(started.task_id, started.attempt, started.token)
    served.routes._storage.write(VIDEO, path)
    assert await served.store.succeed(started, path)


async def fail(served: Served, started: Started) -> None:
    """End the task with an error."""
    assert await served.store.fail(started, TaskError("out_of_memory", "It does not fit; ask for fewer frames."))
