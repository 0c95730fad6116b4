"""Tasks as a client sees them."""

from dataclasses import replace
from datetime import UTC, datetime

from app.http.views import view
from app.tasks.store import Task, TaskError, TaskStatus

CONFIG = {
    "prompt": "a red circle",
    "negative_prompt": "",
    "width": 64,
    "height": 64,
    "num_frames": 9,
    "num_inference_steps": 4,
    "guidance_scale": 5.0,
    "guidance_scale_2": None,
    "seed": 1,
    "fps": 8,
    "image": None,
}
QUEUED = Task(
    task_id="a",
    status=TaskStatus.QUEUED,
    config=CONFIG,
    sequence=1,
    attempt=0,
    step=0,
    steps=0,
    created_at=0.0,
    started_at=None,
    finished_at=None,
    error=None,
    video=None,
)


def test_a_queued_task_shows_its_request_and_the_steps_it_will_take() -> None:
    shown = view(QUEUED)
    assert (shown.prompt, shown.seed, shown.url, shown.video_url) == ("a red circle", 1, "/generate/a", None)
    assert (shown.progress.step, shown.progress.steps) == (0, 4)
    assert (shown.created_at, shown.started_at) == (datetime(1970, 1, 1, tzinfo=UTC), None)


def test_only_a_succeeded_task_shows_a_video() -> None:
    assert view(replace(QUEUED, status=TaskStatus.SUCCEEDED)).video_url == "/generate/a/video"
    for status in set(TaskStatus) - {TaskStatus.SUCCEEDED}:
        assert view(replace(QUEUED, status=status)).video_url is None


def test_a_failed_task_shows_its_error() -> None:
    error = view(replace(QUEUED, status=TaskStatus.FAILED, error=TaskError("gang_lost", "too often"))).error
    assert error is not None
    assert (error.code, error.message) == ("gang_lost", "too often")


def test_an_image_is_shown_without_its_path() -> None:
    facts = {"sha256": "ab", "format": "PNG", "width": 8, "height": 4, "bytes": 100}
    shown = view(replace(QUEUED, config=CONFIG | {"image": facts | {"path": "a/secret.image"}}))
    assert shown.model_dump()["image"] == facts
