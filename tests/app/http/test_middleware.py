"""Old connections, slow bodies and HEAD; the limit of bodies is tested with the body that has an image."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.http.application import create_api
from app.http.middleware import MAX_CONNECTION_SECONDS
from testing.waiting import until_async


@dataclass
class Clock:
    """A clock that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(clock: Clock) -> FastAPI:
    api = create_api(clock)

    @api.get("/")
    async def root() -> str:
        return "here"

    return api


@pytest.fixture
async def connections(api: FastAPI) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two connections of one machine."""
    transports = [httpx.ASGITransport(api, client=("10.0.0.1", port)) for port in (5001, 5002)]
    clients = [httpx.AsyncClient(transport=one, base_url="http://api") for one in transports]
    yield clients
    for client in clients:
        await client.aclose()


async def ends(client: httpx.AsyncClient, path: str = "/") -> bool:
    """Return whether the answer closes the connection."""
    reply = await client.get(path)
    return "close" in reply.headers.get_list("connection")


async def test_an_old_connection_ends_with_its_answer(connections: list[httpx.AsyncClient], clock: Clock) -> None:
    old, young = connections
    assert not await ends(old)
    clock.now = MAX_CONNECTION_SECONDS - 1
    assert not await ends(old)
    assert not await ends(young)
    clock.now = MAX_CONNECTION_SECONDS
    assert await ends(old), "an answer"
    assert not await ends(young), "a connection has its own age"
    assert not await ends(old), "a new connection may come from the same port"


async def test_an_error_ends_an_old_connection_too(connections: list[httpx.AsyncClient], clock: Clock) -> None:
    (client, _) = connections
    await client.get("/")
    clock.now = MAX_CONNECTION_SECONDS
    assert await ends(client, "/nowhere")


async def test_connections_that_ended_are_forgotten(connections: list[httpx.AsyncClient], clock: Clock) -> None:
    gone, other = connections
    await gone.get("/")
    clock.now = 3600.0
    await other.get("/")
    assert not await ends(gone), "a new connection has the port of one that ended an hour ago"


class SlowClients:
    """An API that two bodies at a time may be on their way to, and clients that send or are answered slowly.

    Args:
        body_seconds: how long a body may take.
    """

    def __init__(self, body_seconds: float) -> None:
        self.sending = self.answering = 0
        """Bodies that have begun to arrive, and requests whose body has arrived, so far."""
        self.go_on = asyncio.Event()
        """Until it is set, slow bodies and slow answers wait."""
        api = create_api(body_seconds=body_seconds, arriving_bodies=2)

        @api.get("/healthz")
        async def healthz() -> str:
            return "here"

        @api.post("/body")
        async def body(body: dict[str, Any]) -> int:
            return len(body)

        @api.post("/slow")
        async def slow(body: dict[str, Any]) -> int:
            self.answering += 1
            await self.go_on.wait()
            return len(body)

        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://api")

    async def post(self, path: str = "/body", *, slowly: bool = False) -> httpx.Response:
        async def content() -> AsyncIterator[bytes]:
            self.sending += 1
            yield b"{"
            if slowly:
                await self.go_on.wait()
            yield b"}"

        return await self.http.post(path, content=content(), headers={"Content-Type": "application/json"})

    async def until(self, what: str, condition: Callable[[], bool]) -> None:
        async def holds() -> bool:
            return condition()

        await until_async(what, holds)


async def test_a_body_that_does_not_arrive_ends_with_408_and_frees_its_place() -> None:
    clients = SlowClients(body_seconds=1)
    for reply in await asyncio.gather(*(clients.post(slowly=True) for _ in range(2))):
        assert (reply.status_code, reply.headers["connection"]) == (408, "close")
        assert reply.json()["error"]["code"] == "request_timeout"
        assert "within 1 seconds" in reply.json()["error"]["message"]
    assert [reply.status_code for reply in await asyncio.gather(clients.post(), clients.post())] == [200, 200]


async def test_slow_bodies_keep_nobody_from_health() -> None:
    clients = SlowClients(body_seconds=60)
    slow = [asyncio.create_task(clients.post(slowly=True)) for _ in range(2)]
    await clients.until("both bodies are on their way", lambda: clients.sending == 2)
    assert (await clients.http.get("/healthz")).status_code == 200
    reply = await clients.post()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    clients.go_on.set()
    assert [(await one).status_code for one in slow] == [200, 200]
    assert [reply.status_code for reply in await asyncio.gather(clients.post(), clients.post())] == [200, 200]


async def test_an_answer_may_take_longer_than_a_body_and_keeps_no_body_waiting() -> None:
    clients = SlowClients(body_seconds=1)
    began = time.monotonic()
    slow_answers = [asyncio.create_task(clients.post("/slow")) for _ in range(2)]
    await clients.until("both bodies have arrived", lambda: clients.answering == 2)
    assert (await clients.post()).status_code == 200
    await clients.until("a body's time is over", lambda: time.monotonic() > began + 1.1)
    clients.go_on.set()
    assert [(await one).status_code for one in slow_answers] == [200, 200]
