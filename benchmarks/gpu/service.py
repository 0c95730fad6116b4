"""The service as it runs in a pod: HTTP, Redis, Ray and a gang, on this machine's GPUs or, without any, its CPU."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import httpx
import ray
from ray import serve

from app.config import APPLICATION, AppArgs, Device, ModelOptions
from app.tasks.embedded import EmbeddedRedis
from benchmarks.gpu.works import Work
from testing.ports import free_port
from testing.waiting import until

_LONGEST_VIDEO_SECONDS = 3600


@dataclass(frozen=True)
class Running:
    """A service whose gang is complete."""

    client: httpx.Client
    ready_seconds: float
    """From the deployment to the complete gang, the model loaded by every rank."""


@dataclass(frozen=True)
class Videos:
    """What some videos took, in seconds."""

    first: float
    """The one that is not counted."""
    each: list[float]
    gaps: list[float]
    """From the end of each task to the start of the next."""
    attention: str
    """The attention backends of the ranks."""


@contextmanager
def running(folder: Path, scratch: Path, ranks: int, device: Device, speed: ModelOptions) -> Iterator[Running]:
    """Start the service and yield it once its gang is complete; everything ends with it."""
    from app.serve_app import app

    redis = EmbeddedRedis().start()
    os.environ |= {
        "REDIS_URL": redis.url,
        "STORAGE_URI": (scratch / "videos").as_uri(),
        "MODEL_PATH": str(folder),
        "RAY_AUTH_MODE": "disabled",
    }
    # Without a GPU, logical CPUs so that every rank has room: nothing is measured by their number.
    gpus = ranks if device == "cuda" else 0
    ray.init(num_cpus=ranks + 4, num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = AppArgs(total_workers=ranks, device=device, **speed.model_dump())
        began = time.monotonic()
        serve.run(app(arguments), name=APPLICATION, route_prefix="/")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until("the gang", lambda: client.get("/readyz").is_success, _LONGEST_VIDEO_SECONDS, every=0.2)
            yield Running(client, time.monotonic() - began)
    finally:
        ray.shutdown()
        redis.stop()


def videos(client: httpx.Client, work: Work, steps: list[int]) -> Videos:
    """Make a video for each count of steps; all are queued at once, after one that is not counted."""
    names = [f"bench-{number}-{time.monotonic_ns()}" for number in range(len(steps) + 1)]
    for name, count in zip(names, [steps[0], *steps], strict=True):
        client.post("/generate", json={"task_id": name} | work.request(count)).raise_for_status()

    def ended() -> bool:
        return bool(client.get(f"/generate/{names[-1]}").json()["finished_at"])

    until("the last video", ended, _LONGEST_VIDEO_SECONDS, every=1)
    tasks = [client.get(f"/generate/{name}").json() for name in names]
    for task in tasks:
        if task["status"] != "succeeded":
            raise RuntimeError(f"task {task['task_id']} {task['status']}: {task['error']}")
    seconds = [_time(task["finished_at"]) - _time(task["started_at"]) for task in tasks]
    gaps = [_time(after["started_at"]) - _time(before["finished_at"]) for before, after in itertools.pairwise(tasks)]
    nodes = client.get("/readyz").json()["gangs"][0]["nodes"]
    attention = {rank["attention"] for node in nodes for rank in node["ranks"]}
    return Videos(seconds[0], seconds[1:], gaps, ", ".join(sorted(attention)))


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
