"""``python -m benchmarks.gpu``: measure each work on each system with 1 and 2 GPUs, one JSON row each.

A row's ``seconds_per_step`` is the slope between two videos of different step counts, so text encoding, VAE and mp4 are
not in it; ``seconds_beside_steps`` is what they take. What was not measured is not in the results.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from app.config import Device, ModelOptions
from app.model.folder import ModelFolder
from benchmarks.gpu import service
from benchmarks.gpu.by_hand import Taken
from benchmarks.gpu.works import WORKS, Work, step_flop, write_model
from testing.ports import free_port

RESULTS = Path(__file__).with_name("results.json")
SERVICE = {
    "service": ModelOptions(),
    "service-plain": ModelOptions(attention_backend="native", compile_blocks="never"),
    "service-offloaded": ModelOptions(offload_weights="always"),
    "service-fp8": ModelOptions(fp8_linear=True),
    "service-cached": ModelOptions(step_cache="taylorseer"),
    "service-fp8-cached": ModelOptions(fp8_linear=True, step_cache="taylorseer"),
}
BY_HAND = {
    "torchrun-same": "same",
    "torchrun-eager": "eager",
    "torchrun-cache-dit": "cache-dit",
    "torchrun-cache-dit-cached": "cache-dit-cached",
}


def main(words: list[str] | None = None) -> int:
    arguments = _parse(words)
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory(prefix="wan22-gpu-", dir=arguments.scratch) as scratch:
        for name in arguments.work:
            work = WORKS[name]
            folder = write_model(work, Path(arguments.models or scratch), torch.device(device))
            for ranks in arguments.gpus:
                for system in arguments.systems:
                    row = _measure(work, folder, ranks, system, arguments.steps, device, Path(scratch))
                    row["machine"] = arguments.machine
                    print(json.dumps(row), flush=True)
                    _keep(arguments.results, row)
    return 0


def _parse(words: list[str] | None) -> argparse.Namespace:
    gpus = torch.cuda.device_count()
    systems = [*SERVICE, *BY_HAND]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", nargs="+", choices=WORKS, default=[name for name in WORKS if name != "tiny"])
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2], help="ranks of a gang")
    parser.add_argument("--systems", nargs="+", choices=systems, default=systems)
    parser.add_argument("--steps", nargs=2, type=int, metavar=("FEW", "MANY"), help="default: the work's half and all")
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.name} beside this program")
    parser.add_argument("--models", type=Path, help="keep the models here, 45 GB for A14B, and use what is here")
    parser.add_argument("--scratch", type=Path, help="for videos, and models that are not kept")
    parser.add_argument("--machine", default=platform.node(), help="its name in the rows, which it keeps apart")
    arguments = parser.parse_args(words)
    if not gpus and set(arguments.work) != {"tiny"}:
        parser.error("argument --work: torch sees no GPU here; without one only tiny is measured, to try this program")
    if gpus and max(arguments.gpus) > gpus:
        parser.error(f"argument --gpus: {max(arguments.gpus)} were asked for, torch sees {gpus}")
    if not gpus and arguments.results is None:
        parser.error(f"argument --results: give a file; {RESULTS.name} is for figures of GPUs")
    if arguments.steps and not 0 < arguments.steps[0] < arguments.steps[1]:
        parser.error("argument --steps: the first must be less than the second")
    arguments.results = arguments.results or RESULTS
    return arguments


def _measure(
    work: Work, folder: Path, ranks: int, system: str, steps: list[int] | None, device: Device, scratch: Path
) -> dict[str, Any]:
    few, many = steps or (work.steps // 2, work.steps)
    more: dict[str, Any] = {}
    with _peak_gib() as peak:
        if system in BY_HAND:
            by_hand = _by_hand(BY_HAND[system], folder, work, ranks, [few, many])
            seconds = [video.all for video in by_hand]
            more = {"first_step_seconds": by_hand[1].first_step, "seconds_after_steps": by_hand[1].after_steps}
        else:
            with service.running(folder, scratch, ranks, device, SERVICE[system]) as running:
                videos = service.videos(running.client, work, [few, many])
            seconds = videos.each
            more = {
                "ready_seconds": running.ready_seconds,
                "first_task_seconds": videos.first,
                "idle_gap_ms": 1000 * max(videos.gaps),
                "attention": videos.attention,
            }
    step = (seconds[1] - seconds[0]) / (many - few)
    row = {
        "work": work.name,
        "gpus": ranks,
        "system": system,
        "steps": [few, many],
        "seconds_per_video": seconds[1],
        **more,
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "versions": {name: version(name) for name in ("torch", "diffusers", "ray")},
        "date": date.today().isoformat(),
    }
    # Videos so short that the machine's own noise is larger than their difference give no slope.
    if step > 0:
        row |= {"seconds_per_step": step, "seconds_beside_steps": seconds[0] - few * step}
    # A cached step is not computed: its arithmetic divided by its time would be no rate of the machine.
    if device == "cuda" and step > 0 and "cached" not in system:
        row["tflops_per_gpu"] = step_flop(ModelFolder.read(str(folder)), work) / step / ranks / 1e12
    return row | ({"peak_gib": max(peak)} if peak else {})


def _by_hand(kind: str, folder: Path, work: Work, ranks: int, steps: list[int]) -> list[Taken]:
    command = [
        *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)),
        *("--master-port", str(free_port()), "-m", "benchmarks.gpu.by_hand", kind, str(folder), work.name),
        *map(str, steps),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, capture_output=True, text=True, env=environment)
    if output.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{output.stderr[-4000:]}")
    return [Taken(*video) for video in json.loads(output.stdout.strip().splitlines()[-1])]


@contextmanager
def _peak_gib() -> Iterator[list[float]]:
    """Yield a list that fills with the memory in use on the fullest GPU, in GiB; it stays empty without one."""
    found: list[float] = []
    over = threading.Event()

    def watch() -> None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        query += [f"--id={visible}"] if visible else []
        while not over.wait(1):
            lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
            found.append(max(map(float, lines)) / 1024)

    watcher = threading.Thread(target=watch, daemon=True)
    if torch.cuda.is_available():
        watcher.start()
    try:
        yield found
    finally:
        over.set()


def _keep(file: Path, row: dict[str, Any]) -> None:
    """Put ``row`` into the results; it replaces the one of the same work, GPUs, system and machine."""
    rows = json.loads(file.read_text()) if file.exists() else []
    rows = sorted([*(one for one in rows if _key(one) != _key(row)), row], key=_key)
    file.write_text(json.dumps(rows, indent=2) + "\n")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    # The first rows were kept without a machine.
    return row["work"], row["gpus"], row["system"], row.get("machine", "")


if __name__ == "__main__":
    sys.exit(main())
