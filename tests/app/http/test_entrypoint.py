"""The routes of APIEntrypoint over a real task store and a real storage, without Ray and without gangs."""

import base64
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import redis
from pydantic import ValidationError
from ray import serve

from app.config import AppOptions
from app.http.entrypoint import APIEntrypoint, api
from app.media.storage import Storage, StorageError, video_path
from app.model.folder import ModelFolder
from app.tasks.embedded import EmbeddedRedis
from app.tasks.keys import Key
from app.tasks.store import Started, TaskError, TaskStore
from testing.records import gang_state, task_config
from tests.app.media.pictures import encoded

PICTURE = base64.b64encode(encoded("PNG", (64, 64))).decode()


class Away:
    """A storage that does not answer."""

    def __getattr__(self, verb: str) -> Any:
        def refuse(*_: object) -> None:
            raise StorageError(f"s3://secret does not {verb}")

        return refuse


class Routes(APIEntrypoint):
    """The deployment's class without what it starts."""

    def __del__(self) -> None:  # type: ignore[override]  # Serve awaits the other; nothing runs here.
        pass


@pytest.fixture
def routes(store: TaskStore, text_or_image_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Routes:
    # Not by __init__, which needs Serve and starts the dispatcher.
    routes = Routes.__new__(Routes)
    routes._store, routes._storage = store, Storage(f"file://{tmp_path}")
    routes._model = ModelFolder.read(str(text_or_image_model))
    routes._cluster = "here"
    routes._max_queued_tasks = 50
    routes._max_request_cost = AppOptions().max_request_cost
    monkeypatch.setattr(serve, "get_replica_context", lambda: SimpleNamespace(servable_object=routes))
    return routes


@pytest.fixture
async def http(routes: Routes) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://service") as client:
        yield client


async def run(store: TaskStore, task_id: str) -> Started:
    """Let a leader start the task."""
    await store.publish_gang(gang_state(f"gang of {task_id}", "here"), serving=True, ttl_seconds=30)
    assert await store.take("here", "dispatcher") is not None
    started = await store.start(task_id, "here", "leader", 4)
    assert isinstance(started, Started)
    return started


async def succeed(routes: Routes, task_id: str, video: bytes = b"0123456789") -> None:
    """Let the task end with a video, as a gang would."""
    started = await run(routes._store, task_id)
    path = video_path(task_id, started.attempt, started.token)
    routes._storage.write(video, path)
    assert await routes._store.succeed(started, path)


async def test_a_record_that_cannot_be_read_breaks_nothing_else(http: httpx.AsyncClient, routes: Routes) -> None:
    for name in ("bad", "good"):
        assert (await http.post("/generate", json={"task_id": name})).status_code == 202
    await routes._store._redis.hset(Key.TASK.full("bad"), "config", "{}")
    assert [task["task_id"] for task in (await http.get("/generate")).json()["tasks"]] == ["good"]
    for reply in (await http.get("/generate/bad"), await http.post("/generate", json={"task_id": "bad"})):
        assert reply.status_code == 410
        assert "another task_id" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("gangs", "status", "message"),
    [
        ([], 503, "no gang has started yet"),
        ([{"have": 0, "phase": "starting", "takes_tasks": False, "message": ""}], 503, "no gang has started yet"),
        ([{"phase": "starting", "takes_tasks": False, "message": "rank 1 ended"}], 503, "rank 1 ended"),
        ([{"takes_tasks": False, "message": "no task is taken: s3://videos"}], 503, "no task is taken: s3://videos"),
        ([{"takes_tasks": False, "message": "no task is taken: s3://videos"}, {}], 200, ""),
        ([{"phase": "degraded", "have": 2, "wanted": 4}], 200, ""),
    ],
)
async def test_the_service_is_ready_if_a_gang_takes_tasks(
    http: httpx.AsyncClient, routes: Routes, gangs: list[dict[str, Any]], status: int, message: str
) -> None:
    for number, changes in enumerate(gangs):
        await routes._store.publish_gang(gang_state(f"gang-{number}", "here", **changes), serving=True, ttl_seconds=30)
    reply = await http.get("/readyz")
    assert (reply.status_code, reply.json()["ready"], reply.json()["message"]) == (status, status == 200, message)


async def test_a_refused_picture_leaves_neither_a_task_nor_a_file(http: httpx.AsyncClient, tmp_path: Path) -> None:
    narrow = base64.b64encode(encoded("PNG", (1, 900))).decode()
    reply = await http.post("/generate", json={"task_id": "a", "image": narrow})
    assert reply.status_code == 422
    assert [field["field"] for field in reply.json()["error"]["fields"]] == ["image"]
    assert (await http.get("/generate/a")).status_code == 404
    assert not os.listdir(tmp_path)


async def test_too_much_work_is_refused(http: httpx.AsyncClient) -> None:
    reply = await http.post("/generate", json={"width": 1024, "height": 1024})
    assert reply.status_code == 422
    assert "max_request_cost" in reply.json()["error"]["message"]


async def test_a_storage_that_is_away_is_503(http: httpx.AsyncClient, routes: Routes) -> None:
    await http.post("/generate", json={"task_id": "done"})
    await succeed(routes, "done")
    routes._storage = Away()  # type: ignore[assignment]
    for reply in (
        await http.get("/generate/done/video"),
        await http.post("/generate", json={"task_id": "a", "image": PICTURE}),
    ):
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert "secret" not in reply.text
    assert (await http.get("/generate/a")).status_code == 404


async def test_a_picture_that_cannot_be_withdrawn_does_not_change_the_answer(
    http: httpx.AsyncClient, routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await routes._store.submit("a", {"prompt": "another"}, task_config())
    monkeypatch.setattr(routes._storage, "delete", Away().delete)
    assert (await http.post("/generate", json={"task_id": "a", "image": PICTURE})).status_code == 409


@pytest.mark.parametrize("prefix", ["", "/video"])
async def test_links_have_the_route_prefix(routes: Routes, prefix: str) -> None:
    # As Serve does: the prefix is in the path and in root_path.
    transport = httpx.ASGITransport(api, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        reply = await http.post(f"{prefix}/generate", json={"task_id": "a"})
        assert (reply.status_code, reply.headers["location"]) == (202, f"{prefix}/generate/a")
        await succeed(routes, "a")
        for shown in (
            (await http.get(f"{prefix}/generate/a")).json(),
            (await http.get(f"{prefix}/generate")).json()["tasks"][0],
        ):
            assert (shown["url"], shown["video_url"]) == (f"{prefix}/generate/a", f"{prefix}/generate/a/video")
        assert (await http.get(shown["video_url"])).content == b"0123456789"
        assert f"{prefix}/openapi.json" in (await http.get(f"{prefix}/docs")).text
        large = base64.b64encode(bytes(500_000)).decode()
        assert (await http.post(f"{prefix}/generate", json={"image": large})).status_code == 422, "not 413"
        assert (await http.post(f"{prefix}/generate/a", json={"image": large})).status_code == 413


async def test_an_ended_task_is_deleted_with_its_files(http: httpx.AsyncClient, routes: Routes, tmp_path: Path) -> None:
    await http.post("/generate", json={"task_id": "a", "image": PICTURE})
    await succeed(routes, "a")
    reply = await http.delete("/generate/a")
    assert (reply.status_code, reply.json()["status"]) == (200, "succeeded")
    assert not os.listdir(tmp_path)
    for path in ("/generate/a", "/generate/a/video"):
        assert (await http.get(path)).status_code == 404
    assert (await http.delete("/generate/a")).status_code == 404
    assert (await http.get("/generate")).json()["tasks"] == []
    assert (await http.post("/generate", json={"task_id": "a", "prompt": "another"})).status_code == 202


async def test_a_task_that_has_not_ended_is_cancelled_first(http: httpx.AsyncClient, routes: Routes) -> None:
    for name in ("runs", "waits"):
        await http.post("/generate", json={"task_id": name})
    await run(routes._store, "runs")
    assert (await http.delete("/generate/runs")).json()["status"] == "running"
    for _ in range(2):
        assert (await http.delete("/generate/waits")).json()["status"] == "cancelled"
    assert [task["task_id"] for task in (await http.get("/generate")).json()["tasks"]] == ["runs"]


async def test_a_task_keeps_its_record_while_its_files_cannot_be_deleted(
    http: httpx.AsyncClient, routes: Routes
) -> None:
    await http.post("/generate", json={"task_id": "a"})
    await succeed(routes, "a")
    routes._storage = Away()  # type: ignore[assignment]
    assert (await http.delete("/generate/a")).status_code == 503
    assert (await http.get("/generate/a")).status_code == 200


async def test_a_video_that_a_client_has_is_not_sent_again(http: httpx.AsyncClient, routes: Routes) -> None:
    async def video(**headers: str) -> httpx.Response:
        return await http.get("/generate/a/video", headers={name.replace("_", "-"): headers[name] for name in headers})

    await http.post("/generate", json={"task_id": "a"})
    await succeed(routes, "a")
    tag = (await video()).headers["etag"]
    for named in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        reply = await video(if_none_match=named)
        assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag)
    assert (await video(if_none_match='"other"')).content == b"0123456789"
    part = await video(range="bytes=2-4", if_range=tag)
    assert (part.status_code, part.content) == (206, b"234")
    assert (await video(range="bytes=2-4", if_range='"other"')).status_code == 200
    await http.delete("/generate/a")
    await http.post("/generate", json={"task_id": "a", "prompt": "another"})
    await succeed(routes, "a", b"abcdefghij")
    assert (await video(if_none_match=tag)).content == b"abcdefghij", "another task of the same id"


async def test_head_is_get_without_a_body(http: httpx.AsyncClient, routes: Routes) -> None:
    await http.post("/generate", json={"task_id": "a"})
    await succeed(routes, "a")
    paths = ["/generate", "/generate/a", "/generate/a/video", "/generate/b", "/healthz", "/readyz", "/docs", "/nowhere"]
    for path in paths:
        get, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        for headers in (head.headers, get.headers):
            headers.pop("connection", None)  # It depends on the connection's age.
        assert head.headers == get.headers, path
    assert "head" not in (await http.get("/openapi.json")).json()["paths"]["/generate"]


@pytest.mark.usefixtures("routes")
@pytest.mark.parametrize("prefix", ["", "/video"])
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_the_pages_of_the_api_need_no_internet(prefix: str, page: str) -> None:
    transport = httpx.ASGITransport(api, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        text = (await http.get(prefix + page)).text
        loaded = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"]+)"', text)
        assert len(loaded) >= 2
        for url in loaded:
            assert url.startswith(f"{prefix}/"), url
            assert (await http.get(url)).status_code == 200, url


@pytest.fixture
def small_redis(redis_server: EmbeddedRedis) -> Iterator[None]:
    """The server with 16 MB of memory, as it is configured without evicting keys."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", "16mb")
        yield
        client.config_set("maxmemory", "0")


@pytest.mark.usefixtures("small_redis")
async def test_a_flood_of_cancelled_tasks_ends_in_503_and_keeps_no_task_from_its_end(
    http: httpx.AsyncClient, routes: Routes
) -> None:
    for name in ("makes a video", "fails"):
        assert (await routes._store.submit(name, {}, task_config())).outcome == "created"
    running = [await run(routes._store, name) for name in ("makes a video", "fails")]
    largest = {"prompt": "\N{FILM PROJECTOR}" * 8000, "negative_prompt": "\N{CLAPPER BOARD}" * 8000}
    replies: list[httpx.Response] = []
    while [reply.status_code for reply in replies[-50:]] != [503] * 50:
        replies.append(await http.post("/generate", json=largest))
        if replies[-1].status_code == 202:
            assert (await http.delete(replies[-1].json()["url"])).json()["status"] == "cancelled"
    assert {reply.status_code for reply in replies} == {202, 503}
    assert replies[-1].headers["retry-after"] == "60"
    assert "maxmemory" in replies[-1].json()["error"]["message"]
    assert await routes._store.beat(running[0], 4) == "ok"
    assert await routes._store.succeed(running[0], "video.mp4")
    assert await routes._store.fail(running[1], TaskError("generation_failed", "a long message " * 1000))
    while ids := await routes._store.expired(again_seconds=1):
        for task_id in ids:
            await routes._store.forget(task_id)
    assert (await http.post("/generate", json=largest)).status_code == 202, "cancelled tasks went before their time"
    assert (await http.get("/generate/makes a video")).json()["status"] == "succeeded"


async def test_a_task_names_the_model_for_which_it_was_accepted(
    http: httpx.AsyncClient, routes: Routes, text_or_image_model: Path
) -> None:
    for name, fields in (("text", {}), ("picture", {"image": PICTURE})):
        assert (await http.post("/generate", json={"task_id": name, **fields})).status_code == 202
    for name in ("text", "picture"):
        assert (await run(routes._store, name)).model == text_or_image_model.name


PREFLIGHT = {"Origin": "https://studio.example", "Access-Control-Request-Method": "POST"}


async def test_without_cors_origins_no_page_of_another_origin_may_call(http: httpx.AsyncClient) -> None:
    reply = await http.get("/healthz", headers={"Origin": "https://studio.example"})
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert (await http.options("/generate", headers=PREFLIGHT)).status_code == 405


@pytest.mark.parametrize("allowed", ["https://studio.example", "*"])
async def test_a_page_of_an_allowed_origin_may_call(http: httpx.AsyncClient, routes: Routes, allowed: str) -> None:
    routes.cors_origins = ("http://localhost:3000", "https://studio.example") if allowed != "*" else ("*",)
    asked = PREFLIGHT | {"Access-Control-Request-Headers": "content-type"}
    reply = await http.options("/generate", headers=asked)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, allowed)
    reply = await http.post("/generate", json={"width": 1}, headers={"Origin": "https://studio.example"})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (422, allowed), (
        "errors can be read, too"
    )
    assert "Location" in reply.headers["access-control-expose-headers"]


async def test_a_page_of_an_origin_that_is_not_named_may_not_call(http: httpx.AsyncClient, routes: Routes) -> None:
    routes.cors_origins = ("http://localhost:3000",)
    assert (await http.options("/generate", headers=PREFLIGHT)).status_code == 400


@pytest.mark.parametrize("wrong", ["studio.example", "https://a/", "https://a, https://b", "https://a,*"])
def test_origins_that_no_browser_sends_are_refused(wrong: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        AppOptions(cors_origins=wrong)
