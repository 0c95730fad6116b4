"""The unmodified ``openai`` client against the API on a real port."""

import asyncio
import base64
import contextlib
import io
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from app.http.entrypoint import api
from app.media.mp4 import write_mp4
from app.tasks.store import TaskError, TaskStatus
from testing.replica import Routes
from testing.waiting import until_async
from tests.app.http.replica import PICTURE, run, succeed

# Its authors have marked every method of the Videos API as deprecated, since their own service has ended.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


SIZE: Any = "64x32"
"""The client's type knows the sizes of OpenAI's models alone."""
VARIANTS: tuple[Literal["thumbnail", "spritesheet"], ...] = ("thumbnail", "spritesheet")


@pytest.fixture
async def url(routes: Routes) -> AsyncIterator[str]:
    """The API's address."""
    server = uvicorn.Server(uvicorn.Config(api, host="127.0.0.1", port=0, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await until_async("the server listens", started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/v1"
    server.should_exit = True
    await serving


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="unused", base_url=url) as client:
        yield client


@pytest.fixture
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("film") / "v.mp4"
    write_mp4([np.zeros((9, 64, 64, 3), np.uint8)], 8, path)
    return path.read_bytes()


@contextlib.asynccontextmanager
async def gang(routes: Routes, film: bytes) -> AsyncIterator[None]:
    """End every task that waits, as a gang would."""

    done = False

    async def end_tasks() -> bool:
        for task in (await routes._store.page(TaskStatus.QUEUED))[0]:
            await succeed(routes, task.task_id, film)
        return done

    working = asyncio.create_task(until_async("the test ends", end_tasks, seconds=120))
    try:
        yield
    finally:
        done = True
        await working


@pytest.mark.slow
async def test_create_and_poll_download_list_and_delete(
    client: openai.AsyncOpenAI, routes: Routes, film: bytes
) -> None:
    async with gang(routes, film):
        video = await client.videos.create_and_poll(prompt="a red circle", seconds="4", size=SIZE)
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.seconds, video.size, video.prompt) == ("4", "64x32", "a red circle")
    assert (await client.videos.download_content(video.id)).read() == film
    for variant in VARIANTS:
        picture = await client.videos.download_content(video.id, variant=variant)
        Image.open(io.BytesIO(picture.read())).load()
    assert [one.id async for one in client.videos.list()] == [video.id]
    deleted = await client.videos.delete(video.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError, match="There is no task"):
        await client.videos.retrieve(video.id)


async def test_the_synchronous_client_does_the_same(url: str, routes: Routes, film: bytes) -> None:
    def use() -> tuple[openai.types.Video, bytes]:
        with openai.OpenAI(api_key="unused", base_url=url) as client:
            video = client.videos.create_and_poll(prompt="a", poll_interval_ms=50)
            return video, client.videos.download_content(video.id).read()

    async with gang(routes, film):
        video, content = await asyncio.to_thread(use)
    assert (video.status, content) == ("completed", film)


async def test_a_video_that_failed_or_was_cancelled_is_returned(client: openai.AsyncOpenAI, routes: Routes) -> None:
    failed = await client.videos.create(prompt="a")
    started = await run(routes._store, failed.id)
    waiting = asyncio.create_task(client.videos.poll(failed.id, poll_interval_ms=10))
    await routes._store.fail(started, TaskError("out_of_memory", "Ask for less."))
    video = await waiting
    assert video.error is not None
    assert (video.status, video.error.code, video.error.message) == ("failed", "out_of_memory", "Ask for less.")
    cancelled = await client.videos.create(prompt="a")
    await routes._store.cancel(cancelled.id)
    video = await client.videos.poll(cancelled.id)
    assert video.error is not None
    assert (video.status, video.error.code) == ("failed", "cancelled")


async def test_a_picture_and_our_own_fields_are_taken(client: openai.AsyncOpenAI, routes: Routes) -> None:
    model = (await client.models.list()).data[0].id
    assert (await client.models.retrieve(model)).object == "model"
    own = {"seed": 7, "num_inference_steps": 3, "negative_prompt": "blur"}
    # The client takes an object only there.
    by_url = {"input_reference": {"image_url": f"data:image/png;base64,{PICTURE}"}}
    for video in (
        await client.videos.create(prompt="a", model=model, input_reference=base64.b64decode(PICTURE), extra_body=own),
        await client.videos.create(prompt="a", model=model, extra_body=own | by_url),
    ):
        task = await routes._store.get(video.id)
        assert task is not None
        assert task.config.image is not None
        assert (task.config.seed, task.config.num_inference_steps, task.config.negative_prompt) == (7, 3, "blur")
        assert (video.model, video.to_dict()["seed"]) == (model, 7)


async def test_a_remix_names_its_source(client: openai.AsyncOpenAI) -> None:
    source = await client.videos.create(prompt="a")
    remix = await client.videos.remix(source.id, prompt="b")
    assert (remix.remixed_from_video_id, remix.prompt, remix.size) == (source.id, "b", source.size)


async def test_all_pages_are_followed(client: openai.AsyncOpenAI) -> None:
    made = [(await client.videos.create(prompt="a")).id for _ in range(5)]
    assert [one.id async for one in client.videos.list(limit=2, order="asc")] == made
    assert [one.id async for one in client.videos.list(limit=2)] == made[::-1]


async def test_all_videos_can_be_deleted_while_they_are_listed(client: openai.AsyncOpenAI) -> None:
    made = {(await client.videos.create(prompt="a")).id for _ in range(5)}
    deleted = [(await client.videos.delete(one.id)).id async for one in client.videos.list(limit=2)]
    assert (len(deleted), set(deleted)) == (5, made)
    assert [one.id async for one in client.videos.list()] == []


async def test_a_refusal_is_raised_with_the_field(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        await client.videos.create(prompt="a", model="sora-2")
    assert (raised.value.param, raised.value.type) == ("model", "invalid_request_error")
    assert "The served model is" in str(raised.value)


class LosesAnswers(httpx2.AsyncHTTPTransport):
    """Sends everything and loses the answers to the first requests."""

    lost = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        if self.lost < 2:
            self.lost += 1
            await response.aread()
            raise httpx2.ReadTimeout("lost", request=request)
        return response


async def test_a_create_whose_answer_was_lost_makes_one_task(url: str, routes: Routes) -> None:
    transport = LosesAnswers()
    async with openai.AsyncOpenAI(
        api_key="unused", base_url=url, http_client=httpx2.AsyncClient(transport=transport)
    ) as client:
        video = await client.videos.create(prompt="a", input_reference=("a.png", base64.b64decode(PICTURE)))
        assert transport.lost == 2
        assert [task.task_id for task in (await routes._store.page())[0]] == [video.id]
        await client.videos.create(prompt="a")
    assert len((await routes._store.page())[0]) == 2


@pytest.mark.slow
async def test_the_example_works(url: str, routes: Routes, film: bytes, tmp_path: Path) -> None:
    example = Path(__file__).parents[3] / "examples" / "openai_client.py"
    service = url.removesuffix("/v1")
    async with gang(routes, film):
        process = await asyncio.create_subprocess_exec(sys.executable, example, service, cwd=tmp_path)
        assert await process.wait() == 0
    assert await asyncio.to_thread((tmp_path / "video.mp4").read_bytes) == film
    assert await asyncio.to_thread((tmp_path / "thumbnail.webp").exists)
