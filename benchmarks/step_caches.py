"""Compares step caches: ``python -m benchmarks.step_caches``. How much each leaves out, and how far its videos are.

TaylorSeer (arXiv:2503.06923) and MagCache (arXiv:2506.09045) are those of diffusers, DBCache with TaylorSeer that of
cache-dit. The trained tiny Wan makes the same videos with each and without; what is computed is counted in blocks of
the transformer, which on a GPU are the time of a step. MagCache is calibrated on a prompt that is not counted.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from diffusers import MagCacheConfig

from app.config import ModelOptions
from app.runtime import local_model
from training import generation, scoring
from training.prompts import HELD_OUT_FILE

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
import cache_dit

_WARM_UP = 6
"""Steps that every cache computes first."""

Put = Callable[[Any], None]
"""Puts a cache on a pipeline."""


def magcache(threshold: float, ratios: list[float]) -> Put:
    config = MagCacheConfig(
        threshold=threshold, num_inference_steps=len(ratios), mag_ratios=ratios, retention_ratio=_WARM_UP / len(ratios)
    )
    return lambda pipeline: pipeline.transformer.enable_cache(config)


def dbcache(threshold: float) -> Put:
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=1, Bn_compute_blocks=0, max_warmup_steps=_WARM_UP, residual_diff_threshold=threshold
    )
    calibrator = cache_dit.TaylorSeerCalibratorConfig()
    return lambda pipeline: cache_dit.enable_cache(pipeline, cache_config=config, calibrator_config=calibrator)


def ratios(request: generation.Request) -> list[float]:
    """Return MagCache's ratios, one a step: by how much what the blocks add grows, mean of both branches."""
    pipeline = generation.load(request)
    pipeline.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=request.steps))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        generation.make(request, pipeline)
    branches = [json.loads(found) for found in re.findall(r"^\[[-0-9., ]+\]$", printed.getvalue(), re.MULTILINE)]
    return [float(ratio) for ratio in np.mean(branches, axis=0)]


def computed(request: generation.Request, put: Put | None) -> tuple[list[Any], int]:
    """Return the videos, and how many blocks were computed for them."""
    pipeline = generation.load(request)
    # cache-dit puts other blocks in their place, which call these.
    own = list(pipeline.transformer.blocks)
    if put:
        put(pipeline)
    blocks = 0

    def count(*_: Any) -> None:
        nonlocal blocks
        blocks += 1

    for block in own:
        block.attn1.to_q.register_forward_hook(count)
    videos, _ = generation.make(request, pipeline)
    return videos, blocks


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_caches", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--prompts", type=int, default=20, help="how many of the tiny Wan's held-out prompts")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    prompts = random.Random(0).sample(HELD_OUT_FILE.read_text().splitlines(), arguments.prompts + 1)
    request = generation.Request(local_model(), prompts[1:], steps=arguments.steps, batch=1)
    found = ratios(generation.Request(local_model(), prompts[:1], steps=arguments.steps, batch=1))
    lossless, all_blocks = computed(request, None)
    print("| cache | blocks computed | median PSNR, dB |\n|---|---|---|")

    def measure(name: str, put: Put | None = None, options: ModelOptions | None = None) -> None:
        videos, blocks = computed(replace(request, options=options or ModelOptions()), put)
        print(f"| {name} | {blocks / all_blocks:.2f} | {scoring.psnr(videos, lossless):.1f} |", flush=True)

    for interval in (2, 3, 5):
        options = ModelOptions(step_cache="taylorseer", step_cache_interval=interval, step_cache_warm_up=_WARM_UP)
        measure(f"TaylorSeer, every {interval}", options=options)
    for threshold in (0.03, 0.06, 0.12, 0.24):
        measure(f"MagCache, {threshold}", magcache(threshold, found))
    for threshold in (0.04, 0.08, 0.16, 0.24):
        measure(f"DBCache, {threshold}", dbcache(threshold))


if __name__ == "__main__":
    main()
