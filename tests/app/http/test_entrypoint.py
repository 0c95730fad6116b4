"""The routes of APIEntrypoint over a real task store and a real storage, without Ray and without gangs."""

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from pydantic import ValidationError

from app.config import AppOptions
from app.http.entrypoint import api
from app.tasks.embedded import EmbeddedRedis
from app.tasks.keys import Key
from app.tasks.store import TaskError
from testing.records import gang_state, task_config
from testing.replica import Routes
from tests.app.http.replica import PICTURE, Away, run, succeed
from tests.app.media.pictures import encoded


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


async def test_an_idempotency_key_finds_the_task_that_it_made(http: httpx.AsyncClient) -> None:
    async def post(key: str, **body: object) -> httpx.Response:
        return await http.post("/generate", json=body, headers={"Idempotency-Key": key})

    first = (await post("k", prompt="a")).json()
    again = await post("k", prompt="a")
    assert (again.status_code, again.json()["task_id"]) == (202, first["task_id"])
    assert (await post("another", prompt="a")).json()["task_id"] != first["task_id"]
    for body in ({"prompt": "b"}, {"prompt": "a", "task_id": "mine"}):
        reply = await post("k", **body)
        assert reply.status_code == 409
        assert "Idempotency-Key: A task with this key and another body" in reply.json()["error"]["message"]
    assert len((await http.get("/generate")).json()["tasks"]) == 2


async def test_an_idempotency_key_that_is_too_long_is_refused(http: httpx.AsyncClient) -> None:
    reply = await http.post("/generate", json={}, headers={"Idempotency-Key": "k" * 256})
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "idempotency-key")


async def test_a_repetition_with_a_picture_leaves_one_file(http: httpx.AsyncClient, tmp_path: Path) -> None:
    for _ in range(2):
        headers = {"Idempotency-Key": "k"}
        assert (await http.post("/generate", json={"image": PICTURE}, headers=headers)).status_code == 202
    (folder,) = os.listdir(tmp_path)
    assert len(os.listdir(f"{tmp_path}/{folder}")) == 1


async def test_a_retry_of_the_openai_client_finds_the_task(http: httpx.AsyncClient) -> None:
    async def post(count: int, prompt: str = "a") -> str:
        reply = await http.post("/generate", json={"prompt": prompt}, headers={"x-stainless-retry-count": str(count)})
        assert reply.status_code == 202
        return str(reply.json()["task_id"])

    first = await post(0)
    assert await post(1) == await post(2) == first
    assert await post(1, "b") != first, "another body"
    second = await post(0)
    assert second != first, "a client may want two"
    assert await post(1) == second
    await http.delete(f"/generate/{second}")
    await http.delete(f"/generate/{second}")
    assert await post(1) not in (first, second), "the task of the first try is gone"


@pytest.fixture
def small_redis(redis_server: EmbeddedRedis) -> Iterator[None]:
    """The server with 16 MB of memory, as it is configured without evicting keys."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", "16mb")
        yield
        client.config_set("maxmemory", "0")


@pytest.mark.slow
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
