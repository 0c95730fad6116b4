"""Writes a complete Wan pipeline folder of half a megabyte with random weights: ``python -m app.tiny_model DIR``.

It has the same classes and files as the real models, so code that loads and runs it also loads and runs those. Its
videos are noise; the trained models in ``app/models``, which follow their prompts, come from ``training``.
"""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from app.model.folder import OWN_CONFIG, ImageUse

HEADS = 4
"""Allows Ulysses parallelism of 1, 2 and 4 ranks, and 8 ranks together with CFG parallelism."""
DEFAULTS = {
    "prompt": "a red circle moves right over a blue ground",
    "negative_prompt": "",
    "width": 64,
    "height": 64,
    "num_frames": 9,
    "num_inference_steps": 4,
    "guidance_scale": 4.0,
    "flow_shift": 3.0,
    "fps": 8,
}
BOUNDARY_RATIO = 0.875
"""The share of all timesteps below which T2V-A14B uses its low-noise instead of its high-noise expert."""


def write_tiny_model(
    folder: Path, *, two_experts: bool = False, image: ImageUse = "none", layers: int = 2, seed: int = 0
) -> Path:
    """Write the model to ``folder`` and return it.

    Args:
        folder: created if it is missing; existing files are overwritten.
        two_experts: add a second transformer and a boundary, as in A14B.
        image: whether a request brings an image: ``required`` as in I2V-A14B, ``optional`` as in TI2V-5B.
        layers: number of transformer blocks; more blocks make each step slower.
        seed: the seed of the random weights.
    """
    import torch
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanImageToVideoPipeline,
        WanPipeline,
        WanTransformer3DModel,
    )
    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    torch.manual_seed(seed)
    characters = [chr(code) for code in range(33, 127)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((one, -3.0) for one in characters)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, dropout_rate=0.0)
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )

    def transformer() -> Any:
        return WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=HEADS,
            attention_head_dim=12,
            # 16 channels of noise; with an image also a mask of 4 channels and the image's 16.
            in_channels=36 if image == "required" else 16,
            out_channels=16,
            text_dim=32,
            freq_dim=64,
            ffn_dim=96,
            num_layers=layers,
            rope_max_seq_len=64,
        )

    pipeline = (WanImageToVideoPipeline if image == "required" else WanPipeline)(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformer(),
        transformer_2=transformer() if two_experts else None,
        boundary_ratio=BOUNDARY_RATIO if two_experts else None,
        expand_timesteps=image == "optional",
    )
    pipeline.save_pretrained(folder)
    (folder / OWN_CONFIG).write_text(json.dumps({"defaults": DEFAULTS}, indent=2) + "\n")
    return folder


def main() -> None:
    """Run the command line: write the model and print its folder."""
    parser = argparse.ArgumentParser(prog="python -m app.tiny_model", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--two-experts", action="store_true", help="add a second transformer, as in A14B")
    parser.add_argument(
        "--image",
        choices=get_args(ImageUse),
        default="none",
        help="whether a request brings an image: required as in I2V-A14B, optional as in TI2V-5B",
    )
    arguments = parser.parse_args()
    print(write_tiny_model(arguments.folder, two_experts=arguments.two_experts, image=arguments.image))


if __name__ == "__main__":
    main()
