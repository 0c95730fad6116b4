"""A picture's whole way: over HTTP into the storage, to every rank, through a crash, and out with its task."""

import base64
import os
import signal
from pathlib import Path

import httpx
import pytest

from app.tiny_model import write_tiny_model
from testing.service import LONG_TASK, Service
from tests.app.media.pictures import encoded

PICTURE = encoded("PNG", (64, 64))
TEXT = base64.b64encode(PICTURE).decode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as I2V-A14B, deep enough that a fault falls into the middle of a task."""
    folder = tmp_path_factory.mktemp("models") / "image"
    return write_tiny_model(folder, two_experts=True, image="required", layers=12)


@pytest.fixture
def service(service: Service, model: Path) -> Service:
    """Two ranks of that model."""
    service.bring_up(workers=2, env={"MODEL_PATH": str(model)})
    return service


def stored_images(service: Service, task_id: str) -> list[Path]:
    return list((service.videos / task_id).glob("*.image"))


def test_a_task_from_a_picture_is_made_and_found_again_by_its_content(service: Service) -> None:
    submitted = service.submit("from-json", image=TEXT)
    facts = submitted["image"]
    assert (facts["format"], facts["width"], facts["height"], facts["bytes"]) == ("PNG", 64, 64, len(PICTURE))
    assert set(facts) == {"sha256", "format", "width", "height", "bytes"}, "no path of the storage is shown"
    (kept,) = stored_images(service, "from-json")
    assert kept.read_bytes() == PICTURE
    form = {"data": {"task_id": "from-json", "seed": "1"}, "files": {"image": ("picture.png", PICTURE)}}
    again = service.http.post("/generate", **form)  # type: ignore[arg-type]
    assert (again.status_code, again.json()["created_at"]) == (202, submitted["created_at"])
    other = base64.b64encode(encoded("PNG", (32, 32))).decode()
    reply = service.http.post("/generate", json={"task_id": "from-json", "seed": 1, "image": other})
    assert reply.status_code == 409
    assert stored_images(service, "from-json") == [kept], "what was not accepted is withdrawn"
    assert service.wait_for_end("from-json")["status"] == "succeeded"


def test_a_task_without_its_picture_is_refused(service: Service) -> None:
    reply = service.http.post("/generate", json={"task_id": "none"})
    assert reply.status_code == 422
    assert "makes videos from a picture (WanImageToVideoPipeline)" in reply.json()["error"]["message"]
    reply = service.http.post("/generate", json={"image": base64.b64encode(encoded("GIF")).decode()})
    assert "image: found a GIF" in reply.json()["error"]["message"]


def test_an_accepted_task_keeps_its_picture_when_its_gang_dies(service: Service) -> None:
    service.submit("survives", image=TEXT, **LONG_TASK)
    service.wait_for_step("survives")
    os.kill(service.rank_pids()[1], signal.SIGKILL)
    task = service.wait_for_end("survives", 120)
    assert (task["status"], task["attempt"]) == ("succeeded", 2)


def test_a_picture_that_someone_removed_fails_its_task_alone(service: Service) -> None:
    pids = service.rank_pids()
    service.submit("before", image=TEXT, **LONG_TASK)
    service.submit("lost", image=TEXT)
    for file in stored_images(service, "lost"):
        file.unlink()
    service.http.delete("/generate/before")
    task = service.wait_for_end("lost")
    assert (task["status"], task["error"]["code"]) == ("failed", "image_lost")
    service.submit("after", image=TEXT)
    assert service.wait_for_end("after")["status"] == "succeeded"
    assert service.rank_pids() == pids


def test_a_form_without_a_file_part_is_no_picture(service: Service) -> None:
    reply = httpx.post(service.http.base_url.join("/generate"), data={"prompt": "a"})
    assert reply.status_code == 422
