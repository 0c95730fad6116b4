"""What a client sees over HTTP, good and bad."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import openai
import pytest

from app.tasks.store import TaskStore
from app.tasks.task_config import TaskConfig
from testing.records import task_config
from testing.service import ARGS, LONG_TASK, Service


@pytest.fixture
def http(service: Service) -> httpx.Client:
    service.bring_up(workers=2)
    return service.http


def test_a_bare_task_id_ends_with_a_video(service: Service, http: httpx.Client) -> None:
    reply = http.post("/generate", json={"task_id": "test123"})
    assert reply.status_code == 202
    assert reply.headers["location"] == "/generate/test123"
    task = service.wait_for_end("test123", 20)
    assert (task["status"], task["attempt"], task["progress"]) == ("succeeded", 1, {"step": 4, "steps": 4})
    assert task["created_at"] <= task["started_at"] <= task["finished_at"]


def test_the_video_has_what_was_asked_for(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    asked = {"width": 96, "height": 64, "num_frames": 13, "fps": 12, "num_inference_steps": 2}
    service.submit("asked", **asked)
    task = service.wait_for_end("asked")
    assert asked.items() <= task.items()
    reply = http.get(task["video_url"])
    assert reply.headers["content-type"] == "video/mp4"
    (tmp_path / "v.mp4").write_bytes(reply.content)
    with av.open(str(tmp_path / "v.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (96, 64, 13)
        assert stream.average_rate == 12


def test_a_video_is_served_in_ranges(service: Service, http: httpx.Client) -> None:
    service.submit("ranges")
    url = service.wait_for_end("ranges")["video_url"]
    whole = http.get(url).content
    part = http.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole)}"
    assert http.get(url, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416


def test_a_repeated_submission_finds_the_task(service: Service, http: httpx.Client) -> None:
    first = http.post("/generate", json={"task_id": "twice", "prompt": "a"}).json()
    again = http.post("/generate", json={"task_id": "twice", "prompt": "a"})
    assert (again.status_code, again.json()["seed"]) == (202, first["seed"])
    other = http.post("/generate", json={"task_id": "twice", "prompt": "b"})
    assert other.status_code == 409
    assert "choose another task_id" in other.json()["error"]["message"]
    service.wait_for_end("twice")


def test_every_wrong_field_is_named(http: httpx.Client) -> None:
    reply = http.post("/generate", json={"width": 17, "steps": 3, "seed": "x", "num_frames": 9})
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert {one["field"] for one in error["fields"]} == {"width", "steps", "seed"}
    assert "The known fields are task_id, prompt" in error["message"]
    assert "(found 17)" in error["message"]


def test_what_the_model_cannot_do_is_named(http: httpx.Client) -> None:
    reply = http.post("/generate", json={"num_frames": 10})
    assert reply.status_code == 422
    assert reply.json()["error"]["fields"] == [
        {"field": "num_frames", "message": "Input should be 4k+1 (found 10; nearest: 9 and 13)"}
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "body: The body is not valid JSON"), (b"[]", "must be a JSON object"), (b"", "must be a JSON object")],
)
def test_a_body_that_is_no_object_is_told_so(http: httpx.Client, content: bytes, message: str) -> None:
    reply = http.post("/generate", content=content, headers={"Content-Type": "application/json"})
    assert (reply.status_code, message in reply.json()["error"]["message"]) == (422, True), reply.text


def test_bodies_are_bounded(http: httpx.Client) -> None:
    assert http.post("/generate", content=b"x" * 210_000).status_code == 413

    def endless() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(300))

    assert http.post("/generate", content=endless()).status_code == 413


def test_unknown_tasks_and_paths_are_404(http: httpx.Client) -> None:
    for path in ("/generate/nobody", "/generate/nobody/video", "/nowhere", "/generate/%2e%2e%2fetc"):
        assert http.get(path).status_code == 404, path
    assert http.delete("/generate/nobody").status_code == 404


def test_a_video_asked_for_too_early_is_409(service: Service, http: httpx.Client) -> None:
    service.submit("early", **LONG_TASK)
    reply = http.get("/generate/early/video")
    assert reply.status_code == 409
    assert re.search(r"'early' is (queued|running): its video is not ready", reply.json()["error"]["message"])
    http.delete("/generate/early")
    service.wait_for_end("early")


def test_a_queued_task_is_cancelled_at_once(service: Service, http: httpx.Client) -> None:
    service.submit("runs", **LONG_TASK)
    service.wait_for_step("runs")
    service.submit("waits")
    assert http.delete("/generate/waits").json()["status"] == "cancelled"
    assert service.task("runs")["status"] == "running"
    http.delete("/generate/runs")
    assert service.wait_for_end("runs")["status"] == "cancelled"


def test_tasks_are_listed_by_status_in_pages(service: Service, http: httpx.Client) -> None:
    for name in ("a", "b", "c"):
        service.submit(name)
        service.wait_for_end(name)
    page = http.get("/generate", params={"status": "succeeded", "limit": 2}).json()
    assert [task["task_id"] for task in page["tasks"]] == ["c", "b"]
    rest = http.get("/generate", params={"status": "succeeded", "limit": 2, "cursor": page["cursor"]}).json()
    assert ([task["task_id"] for task in rest["tasks"]], rest["cursor"]) == (["a"], None)
    assert http.get("/generate", params={"status": "failed"}).json()["tasks"] == []
    assert http.get("/generate", params={"status": "lost"}).status_code == 422


def test_progress_is_seen_while_a_task_runs(service: Service, http: httpx.Client) -> None:
    service.submit("progress", **LONG_TASK)
    seen = {service.wait_for_step("progress", step)["progress"]["step"] for step in (1, 20, 60)}
    assert len(seen) >= 2
    service.wait_for_end("progress")


def test_readiness_shows_each_gang(http: httpx.Client) -> None:
    ready = http.get("/readyz")
    assert ready.status_code == 200
    (gang,) = ready.json()["gangs"]
    assert (gang["wanted"], gang["have"], gang["phase"], gang["message"]) == (2, 2, "ready", "")
    (node,) = gang["nodes"]
    assert ([rank["rank"] for rank in node["ranks"]], node["leader"]) == ([0, 1], True)


def test_the_api_documents_itself(http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    videos = {f"/v1/videos{rest}" for rest in ("", "/{video_id}", "/{video_id}/content", "/{video_id}/remix")}
    others = {"/v1/models", "/v1/models/{model}", "/healthz", "/readyz"}
    assert set(paths) == {"/generate", "/generate/{task_id}", "/generate/{task_id}/video"} | videos | others
    assert http.get("/docs").status_code == 200


def test_a_client_that_goes_away_costs_nothing_and_may_ask_again(service: Service, http: httpx.Client) -> None:
    body = {"task_id": "gone"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(http.base_url.join("/generate"), json=body, timeout=httpx.Timeout(20, read=0.001))
    # Serve may have cancelled the call before the task was stored, or after: the client cannot know, and need not.
    assert http.post("/generate", json=body).status_code == 202
    task = service.wait_for_end("gone")
    assert (task["status"], task["attempt"]) == ("succeeded", 1)
    assert [task["task_id"] for task in http.get("/generate").json()["tasks"]] == ["gone"]


def test_a_full_queue_says_when_to_come_back(service: Service, http: httpx.Client) -> None:
    service.submit("busy", **LONG_TASK)
    service.wait_for_step("busy")
    waiting = [f"w{number}" for number in range(ARGS["max_queued_tasks"])]
    for name in waiting:
        service.submit(name)
    reply = http.post("/generate", json={"task_id": "one-more"})
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "30")
    for name in waiting[2:]:
        http.delete(f"/generate/{name}")
    for name in ("busy", *waiting[:2]):
        assert service.wait_for_end(name)["status"] == "succeeded"


def test_no_traceback_reaches_a_client(service: Service, http: httpx.Client) -> None:
    (service.videos / "lost-file").mkdir(exist_ok=True)
    service.submit("lost-file")
    url = service.wait_for_end("lost-file")["video_url"]
    for file in (service.videos / "lost-file").iterdir():
        file.unlink()
    reply = http.get(url)
    assert (reply.status_code, "Traceback" in reply.text) == (410, False)


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
def test_openais_client_makes_and_deletes_a_video(service: Service, http: httpx.Client, tmp_path: Path) -> None:
    size: Any = "96x64"  # The client's type knows the sizes of OpenAI's models alone.
    with openai.OpenAI(base_url=f"{str(http.base_url).rstrip('/')}/v1", api_key="none") as client:
        video = client.videos.create_and_poll(prompt="a red circle", size=size, extra_body={"num_inference_steps": 2})
        assert (video.status, video.size, video.seconds) == ("completed", "96x64", "1")
        client.videos.download_content(video.id).write_to_file(tmp_path / "v.mp4")
        with av.open(str(tmp_path / "v.mp4")) as film:
            stream = film.streams.video[0]
            assert (stream.width, stream.height, stream.frames) == (96, 64, 9)
        for variant in ("thumbnail", "spritesheet"):
            url = f"/v1/videos/{video.id}/content"
            assert http.get(url, params={"variant": variant}).status_code == 200
        assert client.videos.delete(video.id).deleted
        assert [one.id for one in client.videos.list() if one.id == video.id] == []


async def _accept_unchecked(url: str, task_id: str, config: TaskConfig) -> None:
    store = TaskStore.connect(url, lease_seconds=4, task_ttl_seconds=600, max_queued_tasks=22)
    await store.submit(task_id, {}, config)
    await store.close()


def test_a_task_that_cannot_be_done_fails_alone_with_its_reason(service: Service, http: httpx.Client) -> None:
    # The tiny model has 64 positions in time; this video has 65 latent frames.
    reply = http.post("/generate", json={"task_id": "impossible", "num_frames": 257})
    assert (reply.status_code, reply.json()["error"]["fields"][0]["field"]) == (422, "num_frames")
    # As a release with other rules may have accepted it.
    config = task_config(num_frames=257, num_inference_steps=1)
    asyncio.run(_accept_unchecked(service.redis.url, "impossible", config))
    task = service.wait_for_end("impossible", 60)
    assert task["status"] == "failed"
    assert task["error"]["code"] == "generation_failed"
    assert "Traceback" not in task["error"]["message"]
    pids = service.rank_pids()
    service.submit("possible")
    assert service.wait_for_end("possible")["status"] == "succeeded"
    assert service.rank_pids() == pids
