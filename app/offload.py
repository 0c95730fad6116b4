"""Keeps a pipeline's weights in the machine's memory; each block is on the GPU only around the time when it computes.

diffusers' group offloading copies a block to the GPU while the one before computes. Weights whose files have the dtype
in which a rank loads them stay in the page cache of those files, which all ranks of a node share; of others each rank
has a copy.
"""

import logging
from typing import Any

import torch
from diffusers.hooks import apply_group_offloading

from app.config import Speed
from app.memory import GIB, demand
from app.model_folder import ModelFolder

_log = logging.getLogger(__name__)


def is_needed(options: Speed, model: ModelFolder, ranks: int, device: torch.device) -> bool:
    """Return whether a gang of ``ranks`` is to offload: as set, or where a GPU does not hold all and a video."""
    if options.offload_weights != "auto" or device.type == "cpu":
        return options.offload_weights == "always"
    held = torch.cuda.get_device_properties(device).total_memory / GIB
    needed = demand(model, ranks).each
    _log.info("a rank of %d needs %.1f GiB with its weights on the GPU, which has %.1f GiB", ranks, needed, held)
    return needed > held


def offload(pipeline: Any, transformers: list[Any], device: torch.device) -> None:
    """Offload what a diffusers Wan pipeline has loaded on the CPU; the VAE, which is small, goes to ``device``."""
    streams = device.type != "cpu"
    options = {
        "onload_device": device,
        "offload_device": torch.device("cpu"),
        "use_stream": streams,
        "record_stream": streams,
        "low_cpu_mem_usage": streams,
    }
    for transformer in transformers:
        apply_group_offloading(transformer, offload_type="block_level", num_blocks_per_group=1, **options)
    apply_group_offloading(pipeline.text_encoder.encoder, offload_type="leaf_level", **options)
    pipeline.vae.to(device)
