"""The doctor's programs on real Ray, Serve and Redis, started as they are started in a pod."""

import datetime
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import ray
from redis import Redis
from wan22_doctor.checks import gangs, redis, request, serve
from wan22_doctor.findings import Finding
from wan22_doctor.pod_program import START, answer_in, request_line

from app.tasks.embedded import EmbeddedRedis
from app.tiny_model import write_tiny_model
from testing.ports import free_port
from testing.service import ROOT, Service

Json = dict[str, Any]


def run(program: str, env: Mapping[str, str] | None = None, **arguments: object) -> Json:
    """Run a program as ``Cluster.run`` does, without the pod around it."""
    done = subprocess.run(
        [sys.executable, "-c", START],
        input=request_line(program, arguments),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )
    answer = answer_in(done.stdout)
    assert answer is not None, done.stderr
    return answer


@pytest.fixture
def service(service: Service) -> Service:
    service.bring_up(workers=2)
    return service


@pytest.fixture
def pod(service: Service, tmp_path: Path) -> dict[str, str]:
    """The environment of a pod of the service."""
    return {
        "REDIS_URL": service.redis.url,
        "MODEL_PATH": str(service.model),
        "STORAGE_URI": (tmp_path / "videos").as_uri(),
        "RAY_AUTH_MODE": "disabled",
    }


def url(service: Service) -> str:
    return str(service.http.base_url).rstrip("/")


def head(service: Service, pod: Mapping[str, str]) -> Json:
    return run("head", pod, service=url(service), dashboard=service.dashboard)


def test_the_head_answers_for_ray_serve_the_app_and_redis(service: Service, pod: dict[str, str]) -> None:
    found = head(service, pod)
    (node,) = [node for node in serve.rows_of(found["nodes"]) or [] if node["state"] == "ALIVE"]
    assert node["is_head_node"]
    assert serve.rows_of(found["waiting"]) == []
    assert found["versions"]["ray"] == ray.__version__
    assert results(gangs.gangs(found)) == ["ok"]
    assert results(gangs.rendezvous(found)) == ["ok"]
    assert results(serve.serve(found, json.dumps(service.config))) == ["ok"]
    assert results(redis.reach((), datetime.datetime.now(datetime.UTC), found, {})) == ["ok"]


def results(findings: Iterable[Finding]) -> list[str]:
    return [finding.result if finding.result == "ok" else finding.evidence for finding in findings]


@pytest.fixture
def locked_redis() -> Iterator[EmbeddedRedis]:
    redis = EmbeddedRedis().start()
    yield redis
    redis.stop()


def test_the_head_says_why_redis_is_of_no_use(
    service: Service, pod: dict[str, str], locked_redis: EmbeddedRedis
) -> None:
    port = free_port()
    here = {"REDIS_URL": "", "REDIS_HOST": "127.0.0.1"}
    Redis.from_url(locked_redis.url).config_set("requirepass", "right")
    for settings, error in (
        ({"REDIS_URL": ""}, "neither REDIS_URL nor REDIS_HOST is set"),
        (here | {"REDIS_PORT": str(port)}, "Connection refused"),
        (here | {"REDIS_PORT": "many"}, "REDIS_PORT"),
        ({"REDIS_URL": locked_redis.url}, "AuthenticationError"),
        ({"REDIS_URL": locked_redis.url.replace("redis://", "redis://:wrong@")}, "invalid username-password pair"),
    ):
        assert error in head(service, pod | settings)["redis"]["error"]


def test_a_worker_reads_its_model_and_leaves_nothing_in_the_storage(pod: dict[str, str], tmp_path: Path) -> None:
    found = run("worker", pod, device="cpu", marker=".doctor-1")
    assert found["model"]["pipeline"] == "WanPipeline"
    assert (found["model"]["weights"], found["model"]["broken"]) == (3, [])
    assert "error" not in found["storage"]
    assert list((tmp_path / "videos").iterdir()) == []
    assert "error" not in found["redis"]
    assert found["torch"]["version"] == version("torch")


def test_a_worker_asked_for_cuda_says_that_torch_sees_none(pod: dict[str, str]) -> None:
    # The first import of torch on a machine takes longer than a doctor waits.
    found = run("worker", pod, device="cuda", marker=".doctor-1", seconds=40)["torch"]
    assert (found["available"], found["count"]) == (False, 0)


def test_a_worker_that_is_slow_to_import_torch_says_so(tmp_path: Path) -> None:
    env = {"MODEL_PATH": "", "STORAGE_URI": tmp_path.as_uri(), "REDIS_URL": ""}
    found = run("worker", env, device="cuda", marker=".doctor-1", seconds=0)["torch"]
    assert (found["late"], found["error"]) == (True, "no answer within 0 s")
    assert found["version"] == version("torch")


def test_a_worker_says_what_is_wrong_with_model_and_storage(pod: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    spoilt = {"MODEL_PATH": "/no/such/model", "STORAGE_URI": f"file://{tmp_path}/file/videos", "REDIS_URL": ""}
    found = run("worker", pod | spoilt, device="cpu", marker=".doctor-1")
    assert "'/no/such/model' does not exist" in found["model"]["error"]
    assert "NotADirectoryError" in found["storage"]["error"]
    assert "neither REDIS_URL nor REDIS_HOST" in found["redis"]["error"]


def test_a_worker_tells_pointers_of_git_lfs_from_weights(pod: dict[str, str], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(pod["MODEL_PATH"], model)
    (model / "vae" / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    found = run("worker", pod | {"MODEL_PATH": str(model)}, device="cpu", marker=".doctor-1")
    assert found["model"]["broken"] == ["vae/diffusion_pytorch_model.safetensors"]


def test_the_application_is_imported_and_built(service: Service, pod: dict[str, str]) -> None:
    assert run("application", pod, text=json.dumps(service.config)) == {"built": True, "problems": []}


def test_an_application_that_cannot_be_imported_says_where(pod: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def app(:\n")
    here = pod | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    for path, error in (("nowhere.app:app", "no module nowhere"), ("broken:app", "broken.py, line 1")):
        found = run("application", here, text=json.dumps({"applications": [{"import_path": path}]}))
        assert error in found["problems"][0]


def test_a_request_brings_a_video(service: Service, pod: dict[str, str]) -> None:
    body = {"task_id": "doctor-1", "prompt": "a red circle", "num_frames": 5, "num_inference_steps": 2, "seed": 1}
    found = run("request", pod, service=url(service), body=body, seconds=50)
    assert results(request.request(found, {})) == ["ok"]


def test_a_request_that_takes_too_long_is_cancelled(service: Service, pod: dict[str, str]) -> None:
    body = {"task_id": "doctor-2", "num_inference_steps": 200, "seed": 1}
    found = run("request", pod, service=url(service), body=body, seconds=0.5)
    assert found["status"] in ("queued", "running")
    assert service.wait_for_end("doctor-2")["status"] == "cancelled"


def test_a_request_says_why_it_was_refused(service: Service, pod: dict[str, str]) -> None:
    found = run("request", pod, service=url(service), body={"task_id": "t", "width": 17}, seconds=5)
    assert found["refused"] == 422
    assert "width" in found["message"]
    found = run("request", pod, service=f"http://127.0.0.1:{free_port()}", body={"task_id": "t"}, seconds=5)
    assert (found["refused"], "refused" in found["message"]) == (0, True)


def test_a_model_that_begins_from_a_picture_is_given_one(
    service: Service, pod: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = write_tiny_model(tmp_path_factory.mktemp("models") / "from-a-picture", image="required")
    service.bring_up(workers=1, env={"MODEL_PATH": str(model)})
    body = {"task_id": "doctor-3", "width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2, "seed": 1}
    found = run("request", pod, service=url(service), body=body, seconds=50)
    assert results(request.request(found, {})) == ["ok"]
