"""Every error answer has the same shape, and a message that says what to do."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Query
from starlette.exceptions import HTTPException

from app.http.application import create_api
from app.http.errors import problem
from app.http.generate_request import InvalidRequestError
from app.media.storage import StorageError
from app.tasks.store import StoreUnavailableError, UnreadableTaskError

ERRORS = {
    "field": InvalidRequestError("fps", "This is wrong"),
    "redis": StoreUnavailableError("Redis: refused"),
    "record": UnreadableTaskError("task 'a': KeyError: 'secret'"),
    "storage": StorageError("s3://secret does not read a/1.mp4: no credentials"),
    "http": HTTPException(409, "Do something else.", {"Retry-After": "7"}),
    "bug": RuntimeError("secret"),
}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """The API with one route that raises the error of a name."""
    api = create_api()

    @api.get("/raise/{name}")
    async def raises(name: str, limit: int = Query(50, le=200)) -> None:
        raise ERRORS[name]

    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/raise/field", 422, "fps: This is wrong"),
        ("/raise/redis", 503, "The task store (Redis) does not answer."),
        ("/raise/storage", 503, "The storage of videos and images does not answer or refuses. Try again in 5 seconds"),
        ("/raise/record", 410, "The record of this task cannot be read by this version"),
        ("/raise/http", 409, "Do something else."),
        ("/raise/bug", 500, "the log of APIEntrypoint has the details"),
        ("/raise/http?limit=201", 422, "limit: Input should be less than or equal to 200"),
        ("/nowhere", 404, "GET /nowhere: Not Found. GET /openapi.json lists every path"),
    ],
)
async def test_an_error_says_what_is_wrong(http: httpx.AsyncClient, path: str, status: int, message: str) -> None:
    reply = await http.get(path)
    error = reply.json()["error"]
    assert reply.status_code == status
    assert message in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "not_found"), (413, "request_entity_too_large"), (422, "unprocessable_entity"), (418, "error")],
)
def test_the_code_is_the_same_in_every_python(status: int, code: str) -> None:
    assert json.loads(bytes(problem(status, "").body))["error"]["code"] == code


async def test_a_wrong_field_is_listed(http: httpx.AsyncClient) -> None:
    error = (await http.get("/raise/field")).json()["error"]
    assert error["fields"] == [{"field": "fps", "message": "This is wrong"}]


async def test_a_client_is_asked_to_try_again_later(http: httpx.AsyncClient) -> None:
    for name in ("redis", "storage"):
        assert (await http.get(f"/raise/{name}")).headers["retry-after"] == "5"
    assert (await http.get("/raise/http")).headers["retry-after"] == "7"


async def test_a_wrong_method_is_named(http: httpx.AsyncClient) -> None:
    reply = await http.post("/raise/bug")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "GET"
    assert "POST /raise/bug: Method Not Allowed." in reply.json()["error"]["message"]
