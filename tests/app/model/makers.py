"""Requests, small VAEs and rank functions that several tests of the model share."""

import functools
import operator
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from app.config import ModelOptions
from app.model.denoise import CancelledError
from app.model.pipeline import Pipeline
from testing.ports import free_port

GUIDED, UNGUIDED = {"guidance_scale": 4.0}, {"guidance_scale": 1.0}
TINY: dict[str, Any] = {"base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
VAE_2_1 = TINY | {"z_dim": 16}
VAE_2_2 = TINY | {
    "z_dim": 48,
    "decoder_base_dim": 8,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.1] * 48,
    "latents_std": [2.0] * 48,
}
Frames = NDArray[np.uint8]
CACHED = {"step_cache": "taylorseer", "step_cache_interval": 3, "step_cache_warm_up": 6}
SCENE = {"seed": 3, "prompt": "a red circle moving right on a blue ground", "num_frames": 5}


def make(
    rank: int, ranks: int, port: int, folder: str, options: dict[str, Any], *requests: dict[str, Any]
) -> list[tuple[Frames | None, int]]:
    """Run requests in one rank of its own process group; return each one's frames and the number of computed blocks."""
    torch.set_num_threads(1)
    pipeline = Pipeline(folder, torch.device("cpu"), ModelOptions(**options))
    computed = 0

    def count(*_: Any) -> None:
        nonlocal computed
        computed += 1

    handle = pipeline._transformers[0].blocks[-1].attn1.to_q.register_forward_hook(count)
    store = dist.TCPStore("127.0.0.1", port, ranks, rank == 0, timedelta(seconds=60))
    pipeline.join(store, rank, ranks, timedelta(seconds=60))
    results: list[tuple[Frames | None, int]] = []
    for request in requests:
        stop_at = request.get("stop_at", -1)
        task = pipeline.model.default_task(**SCENE | {name: one for name, one in request.items() if name != "stop_at"})
        computed = 0
        try:
            frames = pipeline.generate(task, functools.partial(operator.ne, stop_at))
        except CancelledError:
            frames = None
        results.append((frames, computed))
    pipeline.leave()
    handle.remove()
    return results


def alone(folder: Path, options: dict[str, Any], *requests: dict[str, Any]) -> list[tuple[Frames, int]]:
    return [(np.asarray(frames), count) for frames, count in make(0, 1, free_port(), str(folder), options, *requests)]


def change_weights(component: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Apply ``change`` to the tensors of the component's only safetensors file, by name, and write it again."""
    (file,) = component.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
