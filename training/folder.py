"""Writes the trained parts as complete diffusers folders."""

import copy
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from training.settings import Defaults

ONE = "tiny-wan"
TWO_EXPERTS = "tiny-wan-two-experts"


def write(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    text_encoder: UMT5EncoderModel,
    autoencoder: Any,
    transformers: list[Any],
    flow_shift: float,
    boundary_ratio: float,
) -> None:
    """Write a WanPipeline with float16 weights, and ``wan22.json`` next to its ``model_index.json``.

    Args:
        folder: replaced if it exists.
        transformers: one transformer, or the high-noise and the low-noise expert.
        flow_shift: the scheduler's shift.
        boundary_ratio: the noise level at which the experts change; unused with one transformer.
    """
    parts = [copy.deepcopy(part).to("cpu", torch.float16) for part in (text_encoder, autoencoder, *transformers)]
    experts = len(transformers) == 2
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=parts[0],
        vae=parts[1],
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=flow_shift, num_train_timesteps=1000
        ),
        transformer=parts[2],
        transformer_2=parts[3] if experts else None,
        boundary_ratio=boundary_ratio if experts else None,
    )
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.save_pretrained(folder)
    # transformers 5 writes a new class name, which older versions cannot load; all versions load the old name.
    for file in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
        file.write_text(file.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    defaults = asdict(Defaults()) | {"flow_shift": flow_shift}
    if experts:
        defaults["guidance_scale_2"] = defaults["guidance_scale"]
    (folder / "wan22.json").write_text(json.dumps({"defaults": defaults}, indent=2) + "\n")
