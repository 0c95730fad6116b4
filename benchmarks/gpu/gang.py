"""``python -m benchmarks.gpu.gang``: what a gang on two GPUs does besides being fast, each row JSON.

With the tiny model: how the ranks talk (from NCCL's log, and all-to-all against torchrun), a rank and a leader killed
during a task, 1 -> 2 -> 1 ranks, and a task that does not fit into the memory. With the weights of a work of
``benchmarks.gpu``: a rank and a leader killed, since a gang of that size takes most of its time to load and warm up.
All options and time limits are the application's defaults.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist

from app.config import AppArgs
from app.tasks.embedded import EmbeddedRedis
from app.tiny_model import write_tiny_model
from benchmarks.gpu.works import WORKS, write_model
from testing.ports import free_port
from testing.service import ARGS, Service, running_cluster
from testing.waiting import until

RESULTS = Path(__file__).with_name("gang.json")
_ALL_TO_ALL_BYTES = 256 * 2**20
_TASK = {"num_inference_steps": 200, "guidance_scale": 4.0}
_DEADLINE_SECONDS = 900
"""Loading a large model and compiling its blocks take minutes."""
_LARGE = {"width": 1024, "height": 1024, "num_frames": 121, "num_inference_steps": 2}
# Holds all of a GPU's free memory but 128 MiB until its input ends.
_HOG = """
import sys, torch
held = torch.empty(torch.cuda.mem_get_info()[0] - 2**27, dtype=torch.uint8, device="cuda")
print("full", flush=True)
sys.stdin.read()
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.gang", description=(__doc__ or "").split(": ")[1])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work", choices=WORKS, default="tiny", help="whose model the gang loads")
    parser.add_argument("--models", type=Path, help="keep the models here, 45 GB for A14B, and use what is here")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        print(
            json.dumps(
                _all_to_all(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["MASTER_PORT"]))
            )
        )
        return 0
    if torch.cuda.device_count() < 2:
        parser.error(f"torch sees {torch.cuda.device_count()} GPUs here; two are needed")
    rows: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "ray")},
        "date": date.today().isoformat(),
    }
    with tempfile.TemporaryDirectory(prefix="wan22-gang-") as folder:
        scratch = Path(folder)
        if arguments.work == "tiny":
            os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(scratch / "nccl.%p")}
            model = write_tiny_model(scratch / "model", layers=24)
            rows["all_to_all_torchrun"] = _under_torchrun()
            task, step = _TASK, 20
        else:
            work = WORKS[arguments.work]
            model = write_model(work, arguments.models or scratch, torch.device("cuda"))
            task, step = work.request(4), 2
        measures: dict[str, Callable[[Service], dict[str, Any]]] = {
            "started": _started,
            "rank_killed": lambda service: _killed(service, "rank", task, step),
            "leader_killed": lambda service: _killed(service, "leader", task, step),
        }
        if arguments.work == "tiny":
            measures = {
                "all_to_all_ray": lambda _: _under_ray(),
                **measures,
                "transport": lambda service: _transport(service, scratch),
                "resized": _resized,
                "out_of_memory": _out_of_memory,
            }
        redis = EmbeddedRedis().start()
        with running_cluster(redis, model, scratch / "videos", gpus=2) as service:
            for name, measure in measures.items():
                try:
                    rows[name] = measure(service)
                except Exception as error:
                    rows[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
                print(json.dumps({name: rows[name]}), flush=True)
                _keep(arguments.results, arguments.work, rows)
        redis.stop()
    return 0


def _all_to_all(rank: int, device: int, port: int) -> dict[str, float]:
    """Return the GB/s that each of two ranks sends to the other; 256 MiB a rank, half of it its own."""
    torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port + 1, 2, rank == 0)
    dist.init_process_group("nccl", store=store, rank=rank, world_size=2)
    sent = torch.ones(_ALL_TO_ALL_BYTES // 2, dtype=torch.bfloat16, device="cuda")
    taken = torch.empty_like(sent)
    seconds = []
    for _ in range(25):
        dist.barrier(device_ids=[device])
        torch.cuda.synchronize()
        began = time.perf_counter()
        dist.all_to_all_single(taken, sent)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    dist.destroy_process_group()
    return {"gb_per_second": _ALL_TO_ALL_BYTES / 2 / float(np.median(seconds[5:])) / 1e9}


def _under_torchrun() -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    output = subprocess.run(
        [*command, "-m", "benchmarks.gpu.gang", "--rank"], capture_output=True, text=True, check=True
    )
    return dict(json.loads(next(line for line in output.stdout.splitlines() if line.startswith("{"))))


def _under_ray() -> dict[str, float]:
    port = free_port()
    task = ray.remote(num_gpus=1, num_cpus=0.1, max_calls=1)(_all_to_all)
    return dict(ray.get([task.remote(rank, 0, port) for rank in range(2)], timeout=120)[0])


def _keep(file: Path, work: str, rows: dict[str, Any]) -> None:
    """Put ``rows`` into the results; they replace those of the same work."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(kept | {work: rows}, indent=2) + "\n")


def _started(service: Service) -> dict[str, Any]:
    began = time.monotonic()
    _deploy(service, 2)
    return {"seconds_until_whole": time.monotonic() - began}


def _transport(service: Service, scratch: Path) -> dict[str, Any]:
    pids = service.rank_pids()
    log = "\n".join(file.read_text(errors="replace") for pid in pids for file in scratch.glob(f"nccl.{pid}"))
    return {"channels": dict(Counter(re.findall(r"via (\S+)", log))), "ranks": len(pids)}


def _killed(service: Service, victim: str, request: dict[str, Any], step: int) -> dict[str, Any]:
    """Kill rank 1 or the leader once the task has finished ``step`` steps. Seconds count from the kill."""
    task_id = f"{victim}-killed"
    service.submit(task_id, **request)
    service.wait_for_step(task_id, step)
    pid = service.rank_pids()[1] if victim == "rank" else service.gang()["pid"]
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)

    def forgotten() -> bool:
        return pid not in _pids(service)

    def runs_again(steps: int) -> bool:
        task = service.task(task_id)
        return bool(task["attempt"] > 1 and task["status"] == "running" and task["progress"]["step"] >= steps)

    until("the gang knows", forgotten, 60)
    service.wait_for_gangs(workers=2, seconds=_DEADLINE_SECONDS)
    found: dict[str, Any] = {"seconds_until_whole": time.monotonic() - began}
    until("the task runs again", lambda: runs_again(0), _DEADLINE_SECONDS)
    found["seconds_until_task_runs"] = time.monotonic() - began
    until("a step of the task", lambda: runs_again(1), _DEADLINE_SECONDS)
    found["seconds_until_first_step"] = time.monotonic() - began
    task = service.wait_for_end(task_id, _DEADLINE_SECONDS)
    found["seconds_until_end"] = time.monotonic() - began
    return found | {"status": task["status"], "attempt": task["attempt"]}


def _pids(service: Service) -> list[int]:
    """Return the processes of all leaders and ranks that the service reports."""
    gangs = service.gangs()
    ranks = [rank["pid"] for gang in gangs for node in gang["nodes"] for rank in node["ranks"]]
    return [*(gang["pid"] for gang in gangs), *ranks]


def _resized(service: Service) -> dict[str, Any]:
    _deploy(service, 1)
    before = service.rank_pids()
    found: dict[str, Any] = {}
    for number, workers in enumerate((2, 1)):
        for task in range(3):
            service.submit(f"resized-{number}-{task}", **_TASK)
        service.wait_for_step(f"resized-{number}-0", 5)
        began = time.monotonic()
        service.resize(workers)
        service.wait_for_gangs(workers=workers, seconds=180)
        found[f"seconds_to_{workers}"] = time.monotonic() - began
    tasks = [service.wait_for_end(f"resized-{number}-{task}", 180) for number in range(2) for task in range(3)]
    return found | {
        "statuses": dict(Counter(task["status"] for task in tasks)),
        "attempts": dict(Counter(task["attempt"] for task in tasks)),
        "first_rank_kept_its_process": before[0] in service.rank_pids(),
    }


def _out_of_memory(service: Service) -> dict[str, Any]:
    """Fill the GPU as another process would, ask for more than is left, then for less."""
    _deploy(service, 1)
    (pid,) = service.rank_pids()
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": _gpu_of(pid)}
    hog = subprocess.Popen([sys.executable, "-c", _HOG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert hog.stdin
    assert hog.stdout
    hog.stdout.readline()
    service.submit("large", **_LARGE)
    large = service.wait_for_end("large", 180)
    hog.stdin.close()
    hog.wait()
    service.submit("small", num_inference_steps=2)
    small = service.wait_for_end("small")
    return {
        "large": large["status"],
        "attempt": large["attempt"],
        "error": large["error"],
        "small": small["status"],
        "same_process": service.rank_pids() == [pid],
    }


def _gpu_of(pid: int) -> str:
    """Return the id of the GPU that process ``pid`` computes on."""
    query = ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split(", ") for line in lines)[str(pid)]


def _deploy(service: Service, workers: int) -> None:
    # The limits of the application, not those of the tests, which are shorter.
    defaults = AppArgs(device="cuda").model_dump(include=set(ARGS))
    service.deploy(workers=workers, **defaults)
    service.wait_until_running(_DEADLINE_SECONDS)
    service.wait_for_gangs(workers=workers, seconds=_DEADLINE_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
