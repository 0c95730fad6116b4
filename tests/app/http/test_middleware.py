"""Old connections, slow bodies and HEAD; the limit of bodies is tested with the body that has an image."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.http.application import create_api
from app.http.middleware import MAX_CONNECTION_SECONDS


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
    """An API whose bodies must arrive within a second, two at a time."""

    def __init__(self) -> None:
        api = create_api(body_seconds=1, arriving_bodies=2)

        @api.get("/healthz")
        async def healthz() -> str:
            return "here"

        @api.post("/body")
        async def body(body: dict[str, Any]) -> int:
            await asyncio.sleep(1.2)  # An answer may take longer than a body.
            return len(body)

        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://api")

    async def post(self, pause: float = 0) -> httpx.Response:
        async def content() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.sleep(pause)
            yield b"}"

        return await self.http.post("/body", content=content(), headers={"Content-Type": "application/json"})


@pytest.fixture
async def clients() -> AsyncIterator[SlowClients]:
    clients = SlowClients()
    yield clients
    await clients.http.aclose()


async def test_a_body_that_does_not_arrive_ends_with_408(clients: SlowClients) -> None:
    reply = await clients.post(pause=30)
    assert (reply.status_code, reply.headers["connection"]) == (408, "close")
    assert reply.json()["error"]["code"] == "request_timeout"
    assert "within 1 seconds" in reply.json()["error"]["message"]
    assert (await clients.post()).status_code == 200


async def test_slow_bodies_keep_nobody_from_health(clients: SlowClients) -> None:
    slow = [asyncio.create_task(clients.post(pause=30)) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert (await clients.http.get("/healthz")).status_code == 200
    reply = await clients.post()
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
    assert [(await one).status_code for one in slow] == [408, 408]
    assert [reply.status_code for reply in await asyncio.gather(clients.post(), clients.post())] == [200, 200]


async def test_a_request_whose_body_has_arrived_keeps_no_body_waiting(clients: SlowClients) -> None:
    slow_answers = [asyncio.create_task(clients.post()) for _ in range(2)]
    await asyncio.sleep(0.05)
    assert (await clients.post()).status_code == 200
    assert [(await one).status_code for one in slow_answers] == [200, 200]
