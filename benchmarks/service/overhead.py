"""Time a task takes on the service, against the same pipeline run by torchrun with the same ranks."""

import itertools
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

from testing.ports import free_port
from testing.service import Service
from testing.waiting import until

RANKS = 2
TASKS = 20
ROUNDS = 3
CONFIG = {"num_inference_steps": 40, "seed": 1}


def measure(service: Service) -> list[dict[str, Any]]:
    """Median seconds per task under torchrun and on the service, and what passes between two queued tasks.

    The two run in turn, three times, so that a machine that drifts does not favour one. Nobody polls while tasks run:
    on two cores a client would take its share of what is measured.
    """
    service.deploy(workers=RANKS)
    service.wait_for_gangs(workers=RANKS)
    attempts, gaps, plain = [], [], []
    for _ in range(ROUNDS):
        plain += _under_torchrun()
        tasks = _on_the_service(service)
        attempts += [_seconds(task["finished_at"]) - _seconds(task["started_at"]) for task in tasks]
        gaps += [
            _seconds(after["started_at"]) - _seconds(before["finished_at"])
            for before, after in itertools.pairwise(tasks)
        ]
    base = median(plain)
    whole = median(attempts) + median(gaps)
    return [
        {"system": "pipeline under torchrun", "seconds a task": base, "ratio": 1.0, "more, ms": 0.0},
        _row("service, start to finish", median(attempts), base),
        _row("service, queued task to queued task", whole, base),
        {
            "system": "goal",
            "seconds a task": 1.02 * base + 0.05,
            "ratio": 1.02 + 0.05 / base,
            "more, ms": 20 * base + 50,
        },
    ]


def _row(name: str, seconds: float, base: float) -> dict[str, Any]:
    return {"system": name, "seconds a task": seconds, "ratio": seconds / base, "more, ms": 1000 * (seconds - base)}


def _on_the_service(service: Service) -> list[dict[str, Any]]:
    names = [f"overhead-{number}-{time.monotonic_ns()}" for number in range(TASKS + 1)]
    for name in names:
        service.submit(name, **CONFIG)
    # The first tasks run while the others are still submitted, and it is not counted.
    until("the last task ends", lambda: service.task(names[-1])["finished_at"], 180, every=2)
    return [service.task(name) for name in names[1:]]


def _seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _under_torchrun() -> list[float]:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)),
        *("--master-port", str(free_port()), "-m", "benchmarks.service.overhead"),
    ]
    output = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return [float(second) for second in json.loads(output.stdout.strip().splitlines()[-1])]


def _torchrun_rank() -> None:
    """What a person would run by hand: the same pipeline, the same mp4, no service."""
    import tempfile
    from datetime import timedelta
    from pathlib import Path

    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from app.media.mp4 import write_mp4
    from app.model.pipeline import Pipeline

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    pipeline = Pipeline(os.environ["MODEL_PATH"], torch.device("cpu"))
    store, _, _ = next(rendezvous("env://"))
    pipeline.join(store, rank, world, timedelta(seconds=60))
    config = pipeline.model.default_task(**CONFIG)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(TASKS + 1):
            dist.barrier()
            began = time.monotonic()
            frames = pipeline.generate(config, lambda _: True)
            if frames is not None:
                write_mp4([frames], config.fps, Path(folder, f"{number}.mp4"))
            times.append(time.monotonic() - began)
    pipeline.leave()
    if rank == 0:
        print(json.dumps(times[1:]))


if __name__ == "__main__":
    _torchrun_rank()
