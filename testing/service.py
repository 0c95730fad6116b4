"""The whole service on real Ray, Serve and Redis, and the ways to look at it and break it.

The tests and the benchmarks run the same one.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
from ray.cluster_utils import Cluster

from app.config import APPLICATION, IMPORT_PATH
from app.tasks.embedded import EmbeddedRedis
from testing.ports import free_port
from testing.waiting import until

HEAD_CPUS = 10
ROOT = Path(__file__).parents[1]

# Small enough that a fault is found while a test waits, large enough for two busy cores.
ARGS: dict[str, Any] = {
    "device": "cpu",
    "api_cpus": 0.1,
    "leader_cpus": 0.1,
    "rank_cpus": 0.1,
    "lease_seconds": 4,
    "rank_timeout_seconds": 12,
    "step_timeout_seconds": 30,
    "resize_timeout_seconds": 6,
    # Far above what any task of a test takes beside other work: what runs into this limit is tested without Ray.
    "max_task_seconds": 600,
    "max_queued_tasks": 22,
}
LONG_TASK = {"num_inference_steps": 100}
"""A few seconds on the tiny model: long enough for a fault in its middle."""


@dataclass
class Service:
    """A deployed application and the ways in which a test looks at it and breaks it."""

    dashboard: str
    http: httpx.Client
    redis: EmbeddedRedis
    cluster: Cluster
    model: Path
    videos: Path
    py_executable: str = sys.executable
    """What Ray starts its workers with."""
    config: dict[str, Any] = field(default_factory=dict)

    def deploy(self, *, workers: int = 1, gangs: int = 1, entrypoints: int = 1, env: Any = None, **args: Any) -> None:
        """Apply a serveConfigV2 as KubeRay does; returns at once."""
        application: dict[str, Any] = {
            "name": APPLICATION,
            "route_prefix": "/",
            "import_path": IMPORT_PATH,
            "args": ARGS | args,
            "deployments": [
                {"name": "APIEntrypoint", "num_replicas": entrypoints},
                {"name": "VideoGenerator", "num_replicas": gangs, "user_config": {"total_workers": workers}},
            ],
        }
        application["runtime_env"] = {"py_executable": self.py_executable, "env_vars": env or {}}
        port = self.http.base_url.port
        self.config = {
            "proxy_location": "HeadOnly",
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": [application],
        }
        self._put()

    def bring_up(self, *, workers: int, gangs: int = 1, **more: Any) -> None:
        """Deploy, and wait for the gangs of this deployment: those of the one before may be as many and as large."""
        self.deploy(workers=workers, gangs=gangs, **more)
        self.wait_until_running()
        self.wait_for_gangs(workers=workers, gangs=gangs)

    def resize(self, workers: int) -> None:
        """Change nothing but ``user_config.total_workers``."""
        self.config["applications"][0]["deployments"][1]["user_config"]["total_workers"] = workers
        self._put()

    def _put(self) -> None:
        reply = httpx.put(f"{self.dashboard}/api/serve/applications/", json=self.config, timeout=60)
        assert reply.status_code == 200, reply.text

    def status(self) -> dict[str, Any]:
        reply = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30)
        return dict(reply.raise_for_status().json()["applications"].get(APPLICATION, {}))

    def gangs(self) -> list[dict[str, Any]]:
        try:
            return list(self.http.get("/readyz").json()["gangs"])
        except (httpx.HTTPError, ValueError, KeyError):
            return []

    def gang(self) -> dict[str, Any]:
        (gang,) = self.gangs()
        return gang

    def wait_until_running(self, seconds: float = 180) -> None:
        """Wait until Serve has put the last deployed config into effect."""
        until("Serve has deployed it", lambda: self.status().get("status") == "RUNNING", seconds)

    def wait_for_gangs(self, *, workers: int, gangs: int = 1, seconds: float = 90) -> list[dict[str, Any]]:
        def formed() -> list[dict[str, Any]]:
            found = self.gangs()
            good = [one for one in found if one["have"] == one["wanted"] == workers and one["phase"] == "ready"]
            return found if len(good) == len(found) == gangs else []

        return until(f"{gangs} gangs of {workers}", formed, seconds)

    def submit(self, task_id: str, **fields: Any) -> dict[str, Any]:
        reply = self.http.post("/generate", json={"task_id": task_id, "seed": 1} | fields)
        assert reply.status_code == 202, reply.text
        return dict(reply.json())

    def task(self, task_id: str) -> dict[str, Any]:
        return dict(self.http.get(f"/generate/{task_id}").json())

    def wait_for_end(self, task_id: str, seconds: float = 90) -> dict[str, Any]:
        ended = {"succeeded", "failed", "cancelled"}

        def end() -> dict[str, Any] | None:
            try:
                task = self.task(task_id)
            except (httpx.HTTPError, ValueError):
                return None
            return task if task.get("status") in ended else None

        return until(f"the end of {task_id}", end, seconds)

    def wait_for_step(self, task_id: str, step: int = 3) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            task = self.task(task_id)
            return task if task["status"] == "running" and task["progress"]["step"] >= step else None

        return until(f"step {step} of {task_id}", reached, 60)

    def rank_pids(self) -> list[int]:
        return [rank["pid"] for node in self.gang()["nodes"] for rank in node["ranks"]]

    def entrypoint_pids(self) -> list[int]:
        return [
            one.pid for one in psutil.process_iter() if _title(one).startswith("ray::ServeReplica:wan22:APIEntrypoint")
        ]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def running_cluster(
    redis: EmbeddedRedis, model: Path, videos: Path, gpus: int = 0, py_executable: str = sys.executable
) -> Iterator[Service]:
    """Start Ray with nothing deployed; end it, and every process of it, afterwards."""
    environment = {
        "MODEL_PATH": str(model),
        "STORAGE_URI": videos.as_uri(),
        "REDIS_URL": redis.url,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_health_check_period_ms": "1000",
        # A deployment that cannot start says so after two tries; by default Serve tries three times.
        "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "2",
        # Ray runs its workers at niceness 15; beside other work they would starve, and deadlines with them.
        "RAY_worker_niceness": "0",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": HEAD_CPUS, "include_dashboard": True, "dashboard_port": 0, "num_gpus": gpus},
        )
        ray.init(address=cluster.address, log_to_driver=False)
        with httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", timeout=20) as http:
            yield Service(f"http://{cluster.head_node.webui_url}", http, redis, cluster, model, videos, py_executable)
        ray.shutdown()
        cluster.shutdown()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
