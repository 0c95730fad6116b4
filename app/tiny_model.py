"""Writes a complete Wan pipeline folder with random weights, half a megabyte in all: ``python -m app.tiny_model DIR``.

Same classes, files and loading code as the real models, so what loads and runs this loads and runs those. Its pictures
are noise.
"""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from app.model.folder import OWN_CONFIG, ImageUse

HEADS = 4
"""Divides over 1, 2 and 4 ranks by Ulysses, and over 8 with CFG parallelism."""
DEFAULTS = {
    "prompt": "a red circle moves right over a blue ground",
    "width": 64,
    "height": 64,
    "num_frames": 9,
    "num_inference_steps": 4,
    "guidance_scale": 4.0,
    "fps": 8,
}
BOUNDARY_RATIO = 0.875
"""Where the A14B text-to-video model changes from its high-noise to its low-noise expert."""


def write_tiny_model(
    folder: Path, *, two_experts: bool = False, image: ImageUse = "none", layers: int = 2, seed: int = 0
) -> Path:
    """Write the model to ``folder`` and return it.

    Args:
        folder: made if it is missing; what is in it is overwritten.
        two_experts: add a second transformer and a boundary, as A14B has them.
        image: whether it begins from a picture: ``required`` as in I2V-A14B, ``optional`` as in TI2V-5B.
        layers: transformer blocks; more of them make each step slower.
        seed: of the random weights.
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
            # Beside the noise: a mask of 4 channels and the picture's 16.
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
    parser = argparse.ArgumentParser(prog="python -m app.tiny_model", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--two-experts", action="store_true", help="with a second transformer, as A14B has it")
    parser.add_argument(
        "--image",
        choices=get_args(ImageUse),
        default="none",
        help="begins from a picture: required as in I2V-A14B, optional as in TI2V-5B",
    )
    arguments = parser.parse_args()
    print(write_tiny_model(arguments.folder, two_experts=arguments.two_experts, image=arguments.image))


if __name__ == "__main__":
    main()
