"""``python -m benchmarks.gpu.gang``: what a gang on two GPUs does besides being fast, each row JSON.

How its ranks talk (from NCCL's log, and all-to-all against torchrun), a rank killed, 1 -> 2 -> 1 ranks, and a task that
does not fit into the memory.
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
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist

from app.tasks.embedded import EmbeddedRedis
from app.tiny_model import write_tiny_model
from testing.ports import free_port
from testing.service import Service, running_cluster
from testing.waiting import until

RESULTS = Path(__file__).with_name("gang.json")
_ALL_TO_ALL_BYTES = 256 * 2**20
_TASK = {"num_inference_steps": 200, "guidance_scale": 4.0}
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
    rows: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory(prefix="wan22-gang-") as folder:
        scratch = Path(folder)
        os.environ |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(scratch / "nccl.%p")}
        model, redis = write_tiny_model(scratch / "model", layers=24), EmbeddedRedis().start()
        rows["all_to_all_torchrun"] = _under_torchrun()
        with running_cluster(redis, model, scratch / "videos", gpus=2) as service:
            rows["all_to_all_ray"] = _under_ray()
            for measure in (_transport, _rank_killed, _resized, _out_of_memory):
                name = measure.__name__.strip("_")
                try:
                    rows[name] = measure(service, scratch)
                except Exception as error:
                    rows[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
                print(json.dumps({name: rows[name]}), flush=True)
                arguments.results.write_text(json.dumps(rows, indent=2) + "\n")
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


def _transport(service: Service, scratch: Path) -> dict[str, Any]:
    _deploy(service, 2)
    pids = service.rank_pids()
    log = "\n".join(file.read_text(errors="replace") for pid in pids for file in scratch.glob(f"nccl.{pid}"))
    return {"channels": dict(Counter(re.findall(r"via (\S+)", log))), "ranks": len(pids)}


def _rank_killed(service: Service, _: Path) -> dict[str, Any]:
    service.submit("killed", **_TASK)
    service.wait_for_step("killed", 20)
    killed = service.rank_pids()[1]
    began = time.monotonic()
    os.kill(killed, signal.SIGKILL)
    until("the gang knows", lambda: killed not in service.rank_pids(), 60)
    service.wait_for_gangs(workers=2)
    whole = time.monotonic() - began
    task = service.wait_for_end("killed")
    return {"seconds_until_whole": whole, "status": task["status"], "attempt": task["attempt"]}


def _resized(service: Service, _: Path) -> dict[str, Any]:
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


def _out_of_memory(service: Service, _: Path) -> dict[str, Any]:
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
    arguments: dict[str, Any] = {
        "device": "cuda",
        "max_task_seconds": 600,
        "resize_timeout_seconds": 120,
        "step_timeout_seconds": 120,
    }
    service.bring_up(workers=workers, **arguments)


if __name__ == "__main__":
    sys.exit(main())
