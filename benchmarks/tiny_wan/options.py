"""Options that trade quality for speed, as far as a CPU can try their effect on the picture."""

from typing import Any

import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks import TaylorSeerCacheConfig

CACHES = {
    # Thresholds and orders as in diffusers' documentation, for models of many more steps than ten.
    "first-block": lambda: FirstBlockCacheConfig(threshold=0.05),
    "taylorseer": lambda: TaylorSeerCacheConfig(cache_interval=2, max_order=1, disable_cache_before_step=3),
}
"""Step caches by name."""


def enable_cache(transformers: list[Any], name: str) -> None:
    """Put a step cache on each transformer.

    Raises:
        KeyError: ``name`` is none of ``CACHES``.
    """
    for transformer in transformers:
        transformer.enable_cache(CACHES[name]())


def round_weights_to_fp8(transformers: list[Any]) -> None:
    """Round the blocks' linear weights to float8 e4m3 with one scale per output row, and back.

    The products stay in float32: this shows what the rounding of weights does to the picture, not FP8's speed.
    """
    for transformer in transformers:
        for module in transformer.blocks.modules():
            if isinstance(module, torch.nn.Linear):
                weight = module.weight.data
                scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
                module.weight.data = (weight / scale).to(torch.float8_e4m3fn).to(weight.dtype) * scale
