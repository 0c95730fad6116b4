"""Makes videos with a model folder, in one process or on several ranks.

diffusers' own pipelines and its step cache make them, since these make batches. The service's loop gives the same
frames (tests/app/model/test_denoise.py).
"""

import json
import os
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline, TaylorSeerCacheConfig
from torch.multiprocessing.spawn import spawn

from app.config import ModelOptions
from app.model import acceleration
from app.model.transformer_parallel import Parallelism
from app.plan import Plan
from training.reader import Frames


@dataclass(frozen=True)
class Request:
    """How to make videos; None stands for the folder's default."""

    model: Path
    prompts: list[str]
    seed: int = 0
    """Video number i starts from seed + i, independent of the batch size and the number of ranks."""
    steps: int | None = None
    guidance: float | None = None
    options: ModelOptions = field(default_factory=ModelOptions)
    """The service's options that trade quality for speed."""
    batch: int = 4
    device: str = "cpu"


def generate(request: Request, ranks: int = 1) -> tuple[list[Frames], float]:
    """Make one video per prompt.

    Args:
        request: what to make.
        ranks: processes that share each video by Ulysses context parallelism over gloo, on this machine's CPU.

    Returns:
        the videos, and the seconds that making them took, loading excluded.
    """
    if ranks == 1:
        return make(request, load(request))
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        spawn(_rank, (request, ranks, port, folder), nprocs=ranks)  # type: ignore[no-untyped-call]
        result = np.load(Path(folder) / "videos.npz")
        return list(result["videos"]), float(result["seconds"])


def load(request: Request) -> Any:
    """Load the pipeline in float32 and apply the request's options to it."""
    pipeline = DiffusionPipeline.from_pretrained(request.model, dtype=torch.float32).to(request.device)
    pipeline.set_progress_bar_config(disable=True)
    # The kernels that auto may choose on a GPU do not support float32.
    options = request.options.model_copy(update={"attention_backend": "native"})
    acceleration.apply(options, _transformers(pipeline), torch.device(request.device), compiled=False)
    use_step_cache(options, _transformers(pipeline))
    return pipeline


def use_step_cache(options: ModelOptions, transformers: list[Any]) -> None:
    """Enable the cache of ``app.model.denoise.StepCache`` in diffusers' implementation, if ``options`` ask for it."""
    if options.step_cache == "off":
        return
    for transformer in transformers:
        transformer.enable_cache(
            TaylorSeerCacheConfig(
                cache_interval=options.step_cache_interval,
                disable_cache_before_step=options.step_cache_warm_up,
                max_order=1,
                taylor_factors_dtype=transformer.dtype,
                use_lite_mode=True,
            )
        )


def _transformers(pipeline: Any) -> list[Any]:
    return [part for part in (pipeline.transformer, pipeline.transformer_2) if part is not None]


def defaults(model: Path) -> dict[str, Any]:
    """Return the ``defaults`` of the folder's ``wan22.json``."""
    values: dict[str, Any] = json.loads((model / "wan22.json").read_text())["defaults"]
    return values


def make(request: Request, pipeline: Any) -> tuple[list[Frames], float]:
    """Make the videos with a pipeline that ``load`` returned; returns the same as ``generate``."""
    default = defaults(request.model)
    videos: list[Frames] = []
    started = time.monotonic()
    for start in range(0, len(request.prompts), request.batch):
        prompts = request.prompts[start : start + request.batch]
        frames = pipeline(
            prompt=prompts,
            width=default["width"],
            height=default["height"],
            num_frames=default["num_frames"],
            num_inference_steps=request.steps or default["num_inference_steps"],
            guidance_scale=default["guidance_scale"] if request.guidance is None else request.guidance,
            generator=[torch.Generator().manual_seed(request.seed + start + i) for i in range(len(prompts))],
        ).frames
        videos.extend((np.asarray(frames) * 255).round().astype(np.uint8))
    return videos, time.monotonic() - started


def _rank(rank: int, request: Request, ranks: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    try:
        pipeline = load(request)
        Parallelism(torch.device("cpu")).apply(Plan(ulysses=ranks), _transformers(pipeline))
        videos, seconds = make(request, pipeline)
        if rank == 0:
            np.savez(Path(folder) / "videos.npz", videos=np.stack(videos), seconds=seconds)
    finally:
        dist.destroy_process_group()
