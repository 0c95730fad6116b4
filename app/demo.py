"""``make demo``: the whole service on this machine, one prompt, one video under ``out/``.

Redis, Ray, the HTTP entrypoint and a gang of two ranks are real; nothing is left behind.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app import runtime
from app.config import APPLICATION, AppArgs, ConfigError, Environment
from app.model.folder import ModelFolder
from app.plan import NoPlanError, gang_plan
from app.tasks.embedded import EmbeddedRedis, free_port

PROMPT = "a red circle moving right on a blue ground"

_console = Console()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--out", type=Path, default=Path("out"))
    arguments = parser.parse_args()
    try:
        workers = _workers()
    except ConfigError as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="wan22-demo-") as scratch:
        return _run(arguments.prompt, arguments.out, workers, Path(scratch))


def _workers() -> int:
    """Return how many ranks the demo's gang has, before anything is started.

    Raises:
        ConfigError: TOTAL_WORKERS is no number, or the model has no parallel plan for it; names the allowed counts.
    """
    environment = Environment.read(os.environ)
    model = ModelFolder.read(environment.model_path or str(runtime.local_model()))
    try:
        gang_plan(environment.total_workers, model.heads)
    except NoPlanError as error:
        raise ConfigError(f"environment: TOTAL_WORKERS: {error}") from None
    return environment.total_workers


def _run(prompt: str, out: Path, workers: int, scratch: Path) -> int:
    timings: dict[str, float] = {}
    clock = time.monotonic()

    def lap(name: str) -> None:
        nonlocal clock
        timings[name], clock = time.monotonic() - clock, time.monotonic()

    with _console.status("Redis and Ray start"):
        redis = EmbeddedRedis().start()
        os.environ |= {
            "REDIS_URL": redis.url,
            "STORAGE_URI": (scratch / "videos").as_uri(),
            "MODEL_PATH": os.environ.get("MODEL_PATH") or str(runtime.local_model()),
        }
        _start_ray(workers)
    lap("Redis and Ray")
    try:
        with _console.status(f"a gang of {workers} ranks loads {os.environ['MODEL_PATH']}"):
            url = _deploy(workers)
        lap("service and model")
        with httpx.Client(base_url=url, timeout=60) as client:
            task = _follow(client, client.post("/generate", json={"prompt": prompt}).raise_for_status().json())
            lap("prompt to video")
            if task["status"] != "succeeded":
                _console.print(f"[red]the task {task['status']}: {task['error']}")
                return 1
            file = out / f"{task['task_id']}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(client.get(task["video_url"]).raise_for_status().content)
    finally:
        with _console.status("everything stops"):
            # The cluster is our own: Serve and its replicas end with it.
            ray.shutdown()
            redis.stop()
    lap("stop")
    _report(task, file, timings)
    return 0


def _start_ray(workers: int) -> None:
    # The demo's output is for people; Ray's and Serve's logs stay in Ray's own folder.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    logging.getLogger("ray").setLevel(logging.ERROR)
    # A cluster of its own, even where another runs on this machine.
    # Its CPUs are only counted, so that every count of ranks finds room.
    ray.init(
        "local", num_cpus=max(4, workers), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )


def _deploy(workers: int) -> str:
    from app.serve_app import app

    port = free_port()
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app(AppArgs(total_workers=workers, device="cpu")), name=APPLICATION, route_prefix="/")
    return f"http://127.0.0.1:{port}"


def _follow(client: httpx.Client, task: dict[str, Any]) -> dict[str, Any]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=_console) as progress:
        bar = progress.add_task(task["prompt"], total=task["progress"]["steps"])
        while task["status"] in ("queued", "running"):
            time.sleep(0.1)
            task = client.get(task["url"]).raise_for_status().json()
            progress.update(bar, completed=task["progress"]["step"])
    return task


def _report(task: dict[str, Any], file: Path, timings: dict[str, float]) -> None:
    size = f"{task['width']}x{task['height']}, {task['num_frames']} frames at {task['fps']} a second"
    _console.print(f"\n[bold green]{file}[/]  ({size}, {file.stat().st_size / 1024:.0f} KiB)", soft_wrap=True)
    laps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timings.items())
    _console.print(f"{laps}; {sum(timings.values()):.1f} s in all", style="dim", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
