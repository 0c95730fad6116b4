"""OpenAI's Videos API: the same tasks as those of /generate, in its words."""

import asyncio
import base64
import io
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.http import content
from app.http.entrypoint import api
from app.media.mp4 import write_mp4
from app.tasks.store import TaskError
from testing.replica import Routes
from testing.waiting import until_async
from tests.app.http.replica import PICTURE, Away, run, succeed
from tests.app.media.pictures import encoded

FRAMES = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), np.uint8)


@pytest.fixture
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_mp4([FRAMES], 8, path)
    return path.read_bytes()


async def create(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    reply = await http.post("/v1/videos", json={"prompt": "a red circle"} | fields)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def test_a_new_video_has_the_fields_of_openai_and_ours(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/videos", json={"prompt": "a", "seconds": "2", "size": "64x32", "seed": 7})
    assert reply.status_code == 200
    assert int(reply.headers["openai-poll-after-ms"]) > 0
    video = reply.json()
    asked = {"object": "video", "status": "queued", "progress": 0, "prompt": "a", "seconds": "2", "size": "64x32"}
    assert asked.items() <= video.items()
    assert isinstance(video["created_at"], int)
    for field in ("completed_at", "expires_at", "error", "remixed_from_video_id"):
        assert video[field] is None
    assert {"seed": 7, "num_frames": 17, "fps": 8, "width": 64, "num_inference_steps": 4}.items() <= video.items()
    task = (await http.get(f"/generate/{video['id']}")).json()
    assert {"status": "queued", "num_frames": 17, "height": 32, "seed": 7}.items() <= task.items()
    assert video["model"] == (await http.get("/v1/models")).json()["data"][0]["id"]


async def test_json_and_a_form_make_the_same_task(http: httpx.AsyncClient) -> None:
    raw = base64.b64decode(PICTURE)
    sent: list[dict[str, Any]] = [
        {"json": {"input_reference": {"image_url": f"data:image/png;base64,{PICTURE}"}}},
        {"json": {"input_reference": PICTURE}},
        {"json": {"image": PICTURE}},
        {"files": {"input_reference": ("a.png", raw)}},
        {"files": {"image": ("a.png", raw)}},
        {"files": {"input_reference[image_url]": (None, f"data:image/png;base64,{PICTURE}")}},
    ]
    found = []
    for one in sent:
        fields = {"prompt": "a", "seconds": "1", "size": "64x64", "seed": "3", "task_id": "same"}
        reply = await http.post(
            "/v1/videos", **({"json": fields | one["json"]} if "json" in one else {"data": fields, **one})
        )
        assert reply.status_code == 200, reply.text
        found.append(reply.json())
    assert all(one == found[0] for one in found)
    assert found[0]["image"]["width"] == 64


async def test_the_largest_picture_passes_as_a_data_url_in_a_form(http: httpx.AsyncClient) -> None:
    url = "data:image/png;base64," + base64.b64encode(bytes(10 * 2**20)).decode()
    for body in (
        {"files": {"prompt": (None, "a"), "input_reference[image_url]": (None, url)}},
        {"json": {"prompt": "a", "input_reference": {"image_url": url}}},
    ):
        reply = await http.post("/v1/videos", **body)
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, "input_reference"), "not 413"


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({"json": {}}, 422, "prompt", "prompt: This field is required; send it"),
        ({"json": {"prompt": "a", "n": 2}}, 422, "n", "The known fields are task_id"),
        ({"json": {"prompt": "a", "size": "large"}}, 422, "size", "send WIDTHxHEIGHT in pixels"),
        ({"json": {"prompt": "a", "size": "100x64"}}, 200, None, ""),
        ({"json": {"prompt": "a", "size": "24x64"}}, 422, "size", "nearest: 16x64 and 32x64"),
        ({"json": {"prompt": "a", "size": "2048x64"}}, 422, "size", "As width: Input should be at most 1024"),
        ({"json": {"prompt": "a", "seconds": "nan"}}, 422, "seconds", "finite number"),
        ({"json": {"prompt": "a", "seconds": "four"}}, 422, "seconds", "valid number"),
        ({"json": {"prompt": "a", "seconds": "60"}}, 422, "seconds", "As num_frames: Input should be at most 253"),
        ({"json": {"prompt": "a", "model": "sora-2"}}, 422, "model", "The served model is"),
        (
            {"json": {"prompt": "a", "input_reference": {"file_id": "f"}}},
            422,
            "input_reference",
            "found an object with file_id",
        ),
        (
            {"json": {"prompt": "a", "input_reference": {"image_url": "https://a/b.png"}}},
            422,
            "input_reference",
            "found a URL; the service fetches nothing",
        ),
        (
            {"files": {"prompt": (None, "a"), "input_reference": (None, "text")}},
            422,
            "input_reference",
            "in a form the image must be a file",
        ),
        (
            {"files": {"prompt": ("a.txt", b"words")}},
            422,
            "prompt",
            "only the field image or input_reference may be a file",
        ),
        ({"files": {"prompt": (None, "a" * 300_000)}}, 413, None, "The form without its image is too large"),
    ],
)
async def test_a_refusal_has_openais_form_and_ours(
    http: httpx.AsyncClient, body: dict[str, Any], status: int, param: str | None, message: str
) -> None:
    reply = await http.post("/v1/videos", **body)
    assert reply.status_code == status, reply.text
    if status == 200:
        return
    error = reply.json()["error"]
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert isinstance(error["code"], str)
    assert [field["field"] for field in error.get("fields", [])] == ([param] if param else [])


async def test_errors_of_the_server_have_its_type(http: httpx.AsyncClient, routes: Routes) -> None:
    await create(http, task_id="a")
    await succeed(routes, "a")
    routes._storage = Away()  # type: ignore[assignment]
    reply = await http.get("/v1/videos/a/content")
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
    assert (await http.get("/v1/videos/none")).json()["error"]["code"] == "not_found"


async def test_the_states_of_a_task_in_openais_words(http: httpx.AsyncClient, routes: Routes) -> None:
    async def shown(task_id: str) -> dict[str, Any]:
        reply = await http.get(f"/v1/videos/{task_id}")
        assert reply.status_code == 200, "a failed video, too"
        ended = reply.json()["status"] in ("completed", "failed")
        assert ("openai-poll-after-ms" in reply.headers) is not ended
        return dict(reply.json())

    for name in ("made", "broken", "stopped"):
        await create(http, task_id=name)
    started = await run(routes._store, "made")
    await routes._store.beat(started, 2)
    assert ((await shown("made"))["status"], (await shown("made"))["progress"]) == ("in_progress", 50)
    await routes._store.beat(started, 4)
    assert (await shown("made"))["progress"] == 99, "its frames are still decoded"
    assert await routes._store.succeed(started, "made/1.mp4")
    made = await shown("made")
    assert (made["status"], made["progress"], made["error"]) == ("completed", 100, None)
    assert made["expires_at"] - made["completed_at"] == 60
    await routes._store.fail(await run(routes._store, "broken"), TaskError("not_finite", "a NaN"))
    broken = await shown("broken")
    assert (broken["status"], broken["error"]) == ("failed", {"code": "not_finite", "message": "a NaN"})
    await http.delete("/generate/stopped")
    stopped = await shown("stopped")
    assert (stopped["status"], stopped["error"]["code"]) == ("failed", "cancelled")


async def test_videos_are_listed_in_pages_in_both_orders(http: httpx.AsyncClient) -> None:
    for name in "abcde":
        await create(http, task_id=name)

    async def pages(order: str) -> list[str]:
        found: list[str] = []
        more: dict[str, Any] = {}
        while True:
            page = (await http.get("/v1/videos", params={"limit": 2, "order": order, **more})).json()
            ids = [one["id"] for one in page["data"]]
            assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[0], ids[-1])
            found += ids
            if not page["has_more"]:
                return found
            more = {"after": page["last_id"]}

    assert await pages("desc") == list("edcba")
    assert await pages("asc") == list("abcde")
    assert [one["id"] for one in (await http.get("/v1/videos")).json()["data"]] == list("edcba")
    assert (await http.get("/v1/videos?after=none")).status_code == 404
    for wrong in ("limit=0", "limit=101", "order=up"):
        reply = await http.get(f"/v1/videos?{wrong}")
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, wrong.partition("=")[0])


async def test_an_empty_list(http: httpx.AsyncClient) -> None:
    empty: dict[str, Any] = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    assert (await http.get("/v1/videos")).json() == empty


async def test_deleting_an_ended_or_waiting_video_leaves_nothing(
    http: httpx.AsyncClient, routes: Routes, tmp_path: Path
) -> None:
    await create(http, task_id="made", image=PICTURE)
    await succeed(routes, "made")
    await create(http, task_id="waits", image=PICTURE)
    for name in ("made", "waits"):
        reply = await http.delete(f"/v1/videos/{name}")
        assert (reply.status_code, reply.json()) == (200, {"id": name, "object": "video.deleted", "deleted": True})
        assert (await http.get(f"/v1/videos/{name}")).status_code == 404
    assert not os.listdir(tmp_path)


async def test_deleting_a_running_video_stops_it_first(http: httpx.AsyncClient, routes: Routes) -> None:
    await create(http, task_id="runs")
    started = await run(routes._store, "runs")
    assert (await http.delete("/v1/videos/runs")).json()["deleted"] is False
    assert await routes._store.beat(started, 1) == "cancel"
    assert await routes._store.stop(started)
    assert (await http.get("/v1/videos/runs")).json()["error"]["code"] == "cancelled"
    assert (await http.delete("/v1/videos/runs")).json()["deleted"] is True


async def test_a_remix_repeats_the_request_with_another_prompt(http: httpx.AsyncClient, routes: Routes) -> None:
    source = await create(http, task_id="source", size="64x32", seconds="2", image=PICTURE, num_inference_steps=3)
    await succeed(routes, "source")
    reply = await http.post("/v1/videos/source/remix", json={"prompt": "a blue square"})
    assert reply.status_code == 200, reply.text
    remix = reply.json()
    assert remix["id"] != "source"
    assert (remix["prompt"], remix["remixed_from_video_id"]) == ("a blue square", "source")
    same = ("seed", "size", "seconds", "num_inference_steps", "image", "model", "fps", "guidance_scale", "flow_shift")
    assert {name: remix[name] for name in same} == {name: source[name] for name in same}
    assert (await http.delete("/v1/videos/source")).json()["deleted"]
    assert (await http.get(f"/v1/videos/{remix['id']}")).json()["image"] == source["image"], "it has its own picture"


async def test_a_remix_that_cannot_be_made_says_why(http: httpx.AsyncClient, routes: Routes) -> None:
    await create(http, task_id="source", image=PICTURE)
    assert (await http.post("/v1/videos/none/remix", json={"prompt": "b"})).status_code == 404
    for body in ({}, {"prompt": "b", "seed": 1}):
        assert (await http.post("/v1/videos/source/remix", json=body)).status_code == 422
    routes._storage.delete_task("source")
    reply = await http.post("/v1/videos/source/remix", json={"prompt": "b"})
    assert (reply.status_code, "image of video 'source' was removed" in reply.text) == (410, True)


async def test_a_remix_is_repeated_once(http: httpx.AsyncClient) -> None:
    for name in ("one", "two"):
        await create(http, task_id=name, seed=1)

    async def remix(source: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await http.post(f"/v1/videos/{source}/remix", json={"prompt": "b"}, headers=named)

    first = (await remix("one", idempotency_key="k")).json()["id"]
    assert (await remix("one", idempotency_key="k")).json()["id"] == first
    assert (await remix("two", idempotency_key="k")).status_code == 409, "the remix of another video"
    second = (await remix("two", x_stainless_retry_count="0")).json()["id"]
    assert (await remix("two", x_stainless_retry_count="1")).json()["id"] == second


async def test_one_key_or_retry_is_one_task_in_both_forms(http: httpx.AsyncClient) -> None:
    for headers in ({"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}):
        one = await http.post("/v1/videos", json={"prompt": "a", "seconds": 2}, headers=headers)
        two = await http.post("/generate", json={"prompt": "a", "num_frames": 17}, headers=headers)
        assert one.json()["id"] == two.json()["task_id"]


async def test_each_variant_is_served_in_ranges_with_a_tag(
    http: httpx.AsyncClient, routes: Routes, video: bytes
) -> None:
    await create(http, task_id="a")
    waiting = await http.get("/v1/videos/a/content")
    assert (waiting.status_code, "its video is not ready" in waiting.text) == (409, True)
    await succeed(routes, "a", video)
    tags = set()
    for variant, kind, name in (
        ("video", "video/mp4", "a.mp4"),
        ("thumbnail", "image/webp", "a-thumbnail.webp"),
        ("spritesheet", "image/jpeg", "a-spritesheet.jpg"),
    ):
        url = f"/v1/videos/a/content?variant={variant}"
        whole = await http.get(url)
        assert (whole.status_code, whole.headers["content-type"]) == (200, kind)
        assert whole.headers["content-disposition"] == f'inline; filename="{name}"'
        tag = whole.headers["etag"]
        tags.add(tag)
        part = await http.get(url, headers={"Range": "bytes=2-4", "If-Range": tag})
        assert (part.status_code, part.content) == (206, whole.content[2:5])
        unchanged = await http.get(url, headers={"If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        head = await http.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(whole.content)))
        if variant == "video":
            assert whole.content == video == (await http.get("/v1/videos/a/content")).content
            assert tag == (await http.get("/generate/a/video")).headers["etag"]
        else:
            Image.open(io.BytesIO(whole.content)).load()
    assert len(tags) == 3
    assert (await http.get("/v1/videos/a/content?variant=poster")).status_code == 422


async def test_stills_of_a_new_task_under_an_old_id_are_new(
    http: httpx.AsyncClient, routes: Routes, video: bytes, tmp_path: Path
) -> None:
    await create(http, task_id="a")
    await succeed(routes, "a", video)
    old = (await http.get("/v1/videos/a/content?variant=thumbnail")).content
    await http.delete("/v1/videos/a")
    assert (await http.get("/v1/videos/a/content?variant=thumbnail")).status_code == 404
    write_mp4([255 - FRAMES], 8, tmp_path / "v.mp4")
    await create(http, task_id="a")
    await succeed(routes, "a", await asyncio.to_thread((tmp_path / "v.mp4").read_bytes))
    assert (await http.get("/v1/videos/a/content?variant=thumbnail")).content != old


async def test_a_video_that_is_damaged_or_gone_is_named(http: httpx.AsyncClient, routes: Routes) -> None:
    await create(http, task_id="a")
    await succeed(routes, "a", b"no video")
    reply = await http.get("/v1/videos/a/content?variant=thumbnail")
    assert (reply.status_code, "cannot be decoded" in reply.text) == (410, True)
    routes._storage.delete_task("a")
    for variant in ("video", "thumbnail"):
        reply = await http.get(f"/v1/videos/a/content?variant={variant}")
        assert (reply.status_code, "was removed from the storage" in reply.text) == (410, True)


async def test_stills_that_take_long_hold_nobody_else_up(
    http: httpx.AsyncClient, routes: Routes, video: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(http, task_id="a")
    await succeed(routes, "a", video)
    go, begun = threading.Event(), threading.Event()
    write = content._WRITERS[content.Variant.SPRITESHEET]

    def slowly(video: Path, file: Path) -> None:
        begun.set()
        assert go.wait(60)
        write(video, file)

    monkeypatch.setitem(content._WRITERS, content.Variant.SPRITESHEET, slowly)
    waiting = [asyncio.create_task(http.get("/v1/videos/a/content?variant=spritesheet")) for _ in range(50)]

    async def has_begun() -> bool:
        return begun.is_set()

    await until_async("the sheet is being made", has_begun)
    assert (await http.get("/v1/videos/a/content")).content == video
    await create(http, image=PICTURE)
    assert not any(one.done() for one in waiting)
    go.set()
    replies = await asyncio.gather(*waiting)
    assert {one.status_code for one in replies} == {200}
    assert len({one.content for one in replies}) == 1


async def test_the_served_model_is_listed(http: httpx.AsyncClient, routes: Routes) -> None:
    listed = (await http.get("/v1/models")).json()
    (model,) = listed["data"]
    assert (listed["object"], model["object"], model["id"]) == ("list", "model", "text-or-image")
    assert model["created"] > 1_600_000_000
    assert (await http.get("/v1/models/text-or-image")).json() == model
    assert (await create(http, model="text-or-image"))["model"] == "text-or-image"
    assert (await http.get("/v1/models/sora-2")).status_code == 404


@pytest.mark.parametrize("prefix", ["", "/video"])
async def test_a_picture_is_accepted_below_a_route_prefix(routes: Routes, prefix: str) -> None:
    large = base64.b64encode(encoded("PNG", (400, 400)) + bytes(500_000)).decode()
    transport = httpx.ASGITransport(api, root_path=prefix)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as http:
        reply = await http.post(f"{prefix}/v1/videos", json={"prompt": "a", "input_reference": large})
        assert reply.status_code == 200, reply.text
        assert (await http.post(f"{prefix}/v1/videos/a/remix", json={"prompt": large})).status_code == 413


async def test_the_body_and_the_headers_are_documented(http: httpx.AsyncClient) -> None:
    paths = (await http.get("/openapi.json")).json()["paths"]
    body = paths["/v1/videos"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    assert {"prompt", "seconds", "size", "seed"} <= set(body["application/json"]["schema"]["properties"])
    for path in ("/v1/videos", "/generate", "/v1/videos/{video_id}/remix"):
        assert [one["name"] for one in paths[path]["post"]["parameters"] if one["in"] == "header"] == [
            "idempotency-key"
        ]
