"""What a person would run by hand, one rank of it.

``torchrun ... -m benchmarks.gpu.by_hand SYSTEM MODEL WORK STEPS...``

``same`` is this project's own pipeline and plan without the service; ``eager`` is plain diffusers with Ulysses;
``cache-dit`` and ``cache-dit-cached`` are diffusers with what cache-dit adds, without and with its cache.
Rank 0 prints what a video took for each count of steps, after one video that is not counted.
"""

import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, DiffusionPipeline
from diffusers.utils import logging
from torch.distributed.rendezvous import rendezvous

from app.media.mp4 import write_mp4
from app.model.meta import rank_dtypes
from app.model.pipeline import Pipeline
from app.model.transformer_parallel import one_device_on_cpu
from benchmarks.gpu.works import WORKS

Make = Callable[[dict[str, Any], Path, Callable[[], None]], None]
"""Makes a video of a request in a file; calls the last at each step's end."""


class Taken(NamedTuple):
    """What one video took, in seconds."""

    all: float
    first_step: float
    """From the request to the end of its first step: text encoding and a step."""
    after_steps: float
    """From the end of its last step to the file: decoding and mp4."""


def same(folder: str, device: torch.device) -> Make:
    pipeline = Pipeline(folder, device, ranks=_world())
    store, _, _ = next(rendezvous("env://"))
    pipeline.join(store, _rank(), _world(), timedelta(minutes=10))

    def make(request: dict[str, Any], file: Path, step_ended: Callable[[], None]) -> None:
        def go_on(_: int) -> bool:
            step_ended()
            return True

        pieces = pipeline.stream(pipeline.model.default_task(**request), go_on)
        if pieces is not None:
            write_mp4(pieces, pipeline.model.defaults.fps, file)

    return make


def eager(folder: str, device: torch.device) -> Make:
    pipeline = _plain(folder, device)
    if _world() > 1:
        for transformer in _transformers(pipeline):
            with one_device_on_cpu(device):
                transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=_world()))
    return _maker(pipeline)


def peer(folder: str, device: torch.device, cached: bool) -> Make:
    """Set up what the guide of cache-dit recommends: Ulysses, cuDNN's attention, compiled blocks; then its DBCache."""
    import cache_dit

    pipeline = _plain(folder, device)
    attention = "_sdpa_cudnn" if device.type == "cuda" else "native"
    parallel = cache_dit.ParallelismConfig(ulysses_size=_world(), attention_backend=attention) if _world() > 1 else None
    # By default it computes 8 blocks to judge by; the tiny model has 2.
    computed = min(8, len(pipeline.transformer.blocks) // 2)
    settings = {
        "cache_config": cache_dit.DBCacheConfig(Fn_compute_blocks=computed),
        "calibrator_config": cache_dit.TaylorSeerCalibratorConfig(),
    }
    with one_device_on_cpu(device):
        cache_dit.enable_cache(
            pipeline,
            **(settings if cached else {"cache_config": None}),
            parallelism_config=parallel,
            attention_backend=None if parallel else attention,
        )
    if device.type == "cuda":
        cache_dit.set_compile_configs()
        for transformer in _transformers(pipeline):
            transformer.compile_repeated_blocks()
    return _maker(pipeline)


def _plain(folder: str, device: torch.device) -> Any:
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=rank_dtypes(device.type), device_map=device.type)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _transformers(pipeline: Any) -> list[Any]:
    return [part for part in (pipeline.transformer, getattr(pipeline, "transformer_2", None)) if part is not None]


def _maker(pipeline: Any) -> Make:
    def make(request: dict[str, Any], file: Path, step_ended: Callable[[], None]) -> None:
        def on_step_end(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            step_ended()
            return tensors

        arguments = {name: value for name, value in request.items() if name != "seed"}
        arguments |= {"generator": torch.Generator("cpu").manual_seed(request["seed"])}
        result = pipeline(**arguments, output_type="np", callback_on_step_end=on_step_end)
        if _rank() == 0:
            write_mp4([(result.frames[0] * 255).round().astype(np.uint8)], 16, file)

    return make


def _rank() -> int:
    return int(os.environ["RANK"])


def _world() -> int:
    return int(os.environ["WORLD_SIZE"])


SYSTEMS: dict[str, Callable[[str, torch.device], Make]] = {
    "same": same,
    "eager": eager,
    "cache-dit": functools.partial(peer, cached=False),
    "cache-dit-cached": functools.partial(peer, cached=True),
}


def taken_by(system: str, folder: str, work: str, steps: list[int]) -> list[Taken]:
    """As one rank of torchrun's: make a video of each count of steps, after one that is not counted; say how long."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    make = SYSTEMS[system](folder, device)
    videos = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in (steps[0], *steps):
            dist.barrier(device_ids=[device.index]) if on_gpu else dist.barrier()
            times = [time.monotonic()]
            make(WORKS[work].request(count), Path(scratch, "v.mp4"), functools.partial(_note, times))
            end = time.monotonic()
            videos.append(Taken(end - times[0], times[1] - times[0], end - times[-1]))
    dist.destroy_process_group()
    return videos[1:]


def _note(times: list[float]) -> None:
    times.append(time.monotonic())


def main() -> None:
    system, folder, work, *steps = sys.argv[1:]
    logging.set_verbosity_error()
    videos = taken_by(system, folder, work, [int(count) for count in steps])
    if _rank() == 0:
        print(json.dumps(videos))


if __name__ == "__main__":
    main()
