"""Connections are closed when they are old; the limit of bodies is tested with the body that has an image."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

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
