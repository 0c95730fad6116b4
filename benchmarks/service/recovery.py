"""Start to Ready, memory, and the time from a fault to the next task that ends."""

import os
import signal
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import psutil

from testing.service import LONG_TASK, Service

RUNS = 3


def measure_start(service: Service) -> list[dict[str, Any]]:
    """Seconds from the first deployment on a started Ray to a gang that is ready."""
    rows = []
    for workers in (1, 2):
        began = time.monotonic()
        service.deploy(workers=workers, max_queued_tasks=1000 + workers)
        service.wait_for_gangs(workers=workers)
        rows.append({"what": f"deployment to ready, {workers} ranks", "seconds": time.monotonic() - began})
    for workers in (4, 2):
        began = time.monotonic()
        service.resize(workers)
        service.wait_for_gangs(workers=workers)
        rows.append({"what": f"resize to {workers} ranks", "seconds": time.monotonic() - began})
    return rows


def measure_memory(service: Service) -> list[dict[str, Any]]:
    """Resident and proportional memory of each process of an idle service with two ranks."""
    _two_ranks(service)
    gang = service.gang()
    pids = {"leader": [gang["pid"]], "rank": service.rank_pids(), "APIEntrypoint": service.entrypoint_pids()}
    pids["Redis"] = [service.redis.pid]
    for process in psutil.process_iter():
        name = " ".join(process.cmdline()[:1]) if process.is_running() else ""
        for word in ("ServeController", "ProxyActor"):
            if word in name:
                pids.setdefault(f"Ray Serve {word}", []).append(process.pid)
    rows = []
    for name, found in pids.items():
        memory = [psutil.Process(pid).memory_full_info() for pid in found]
        rows.append(
            {
                "process": name,
                "count": len(found),
                "resident MiB": median(one.rss for one in memory) / 2**20,
                "proportional MiB": median(one.pss for one in memory) / 2**20,
            }
        )
    return rows


def measure_kills(service: Service) -> list[dict[str, Any]]:
    """Seconds from a kill in the middle of a task to that task's end, less what the task takes undisturbed."""

    def redis() -> None:
        service.redis.kill()
        service.redis.start()

    faults: dict[str, Callable[[], None]] = {
        "nothing": lambda: None,
        "rank": lambda: os.kill(service.rank_pids()[1], signal.SIGKILL),
        "leader": lambda: os.kill(service.gang()["pid"], signal.SIGKILL),
        "APIEntrypoint": lambda: os.kill(service.entrypoint_pids()[0], signal.SIGKILL),
        "Redis, restarted at once": redis,
    }
    rows = []
    undisturbed = 0.0
    for name, fault in faults.items():
        seconds, attempts = [], set()
        for run in range(RUNS):
            _two_ranks(service)
            task_id = f"bench-{name.split(',')[0]}-{run}-{time.monotonic_ns()}"
            service.submit(task_id, **LONG_TASK)
            service.wait_for_step(task_id)
            began = time.monotonic()
            fault()
            task = service.wait_for_end(task_id, 180)
            seconds.append(time.monotonic() - began)
            attempts.add(f"{task['status']} in attempt {task['attempt']}")
        undisturbed = undisturbed or median(seconds)
        rows.append(
            {
                "killed": name,
                "seconds to the task's end": median(seconds),
                "more than undisturbed": median(seconds) - undisturbed,
                "ends": ", ".join(sorted(attempts)),
            }
        )
    return rows


def _two_ranks(service: Service) -> None:
    service.deploy(workers=2)
    service.wait_for_gangs(workers=2, seconds=180)
