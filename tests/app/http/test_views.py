"""Tasks as a client sees them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from app.http.views import view
from app.tasks.store import Task, TaskError, TaskStatus
from app.tasks.task_config import TaskImage
from testing.records import task_config

QUEUED = Task(
    task_id="a",
    status=TaskStatus.QUEUED,
    config=task_config(prompt="a red circle"),
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
    facts: dict[str, Any] = {"sha256": "ab", "format": "PNG", "width": 8, "height": 4, "bytes": 100}
    shown = view(replace(QUEUED, config=task_config(image=TaskImage(path="a/secret.image", **facts))))
    assert shown.model_dump()["image"] == facts


def test_a_task_is_shown_whatever_its_record_holds() -> None:
    shown = view(replace(QUEUED, config=task_config(width=16, height=320000, seed=2**63, prompt="x" * 9000)))
    assert (shown.height, shown.seed) == (320000, 2**63)
