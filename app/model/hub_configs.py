"""Configs of the published Wan2.2 models, built in so that sizes can be computed without network access.

They are the contents of the JSON files in the model repositories, without the keys whose values are the classes'
defaults.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from app.model.folder import ModelFolder

_UMT5_XXL: dict[str, Any] = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "is_gated_act": True,
    "dense_act_fn": "gelu_new",
}
_A14B: dict[str, Any] = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 40,
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 13824,
    "num_layers": 40,
}
_TI2V_5B: dict[str, Any] = _A14B | {
    "num_attention_heads": 24,
    "in_channels": 48,
    "out_channels": 48,
    "ffn_dim": 14336,
    "num_layers": 30,
}
_VAE_2_1: dict[str, Any] = {"base_dim": 96, "z_dim": 16, "scale_factor_temporal": 4, "scale_factor_spatial": 8}
_VAE_2_2: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
"""The latents' statistics are placeholders: they change no shape, so no size either."""


def _index(name: str, **more: Any) -> dict[str, Any]:
    experts = ["transformer"] + (["transformer_2"] if more.get("boundary_ratio") else [])
    return {
        "_class_name": name,
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
        **{expert: ["diffusers", "WanTransformer3DModel"] for expert in experts},
        **more,
    }


def _files(index: dict[str, Any], transformer: dict[str, Any], vae: dict[str, Any]) -> dict[str, dict[str, Any]]:
    configs = {"transformer": transformer, "transformer_2": transformer, "vae": vae, "text_encoder": _UMT5_XXL}
    scheduler = {"scheduler/scheduler_config.json": {"_class_name": "UniPCMultistepScheduler", "flow_shift": 3.0}}
    return (
        {"model_index.json": index}
        | scheduler
        | {f"{part}/config.json": config for part, config in configs.items() if part in index}
    )


PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": _files(_index("WanPipeline", boundary_ratio=0.875), _A14B, _VAE_2_1),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": _files(
        _index("WanImageToVideoPipeline", boundary_ratio=0.9), _A14B | {"in_channels": 36}, _VAE_2_1
    ),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": _files(_index("WanPipeline", expand_timesteps=True), _TI2V_5B, _VAE_2_2),
}
"""The JSON files that determine a model's size, as hub id -> file name -> content."""


@cache
def built_in(hub_id: str) -> ModelFolder | None:
    """Return the published model with this hub id without contacting the hub; None if it is not in ``PUBLISHED``."""
    if hub_id not in PUBLISHED:
        return None
    files = deepcopy(PUBLISHED[hub_id])
    return ModelFolder.from_configs(Path(hub_id), files.__getitem__)
