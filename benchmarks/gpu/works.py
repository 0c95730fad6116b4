"""The works that are measured, the arithmetic in one step of each, and model folders with random weights for them."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from app.model.folder import ModelFolder
from app.model.hub_configs import built_in
from app.model.meta import components, meta_module
from app.tiny_model import write_tiny_model

_TEXT_TOKENS = 512
_COMPLETE = ".complete"


@dataclass(frozen=True)
class Work:
    """One kind of request; ``model`` is a hub id whose configs are built in, None for the tiny model."""

    name: str
    model: str | None
    width: int
    height: int
    num_frames: int
    steps: int
    guidance_scale: float

    def request(self, steps: int) -> dict[str, Any]:
        """Return the request; its seed is fixed, so every system makes the same video."""
        return {
            "prompt": "a red circle moves right over a blue ground",
            "width": self.width,
            "height": self.height,
            "num_frames": self.num_frames,
            "num_inference_steps": steps,
            "guidance_scale": self.guidance_scale,
            "seed": 1,
        }


WORKS = {
    work.name: work
    for work in (
        Work("A14B-720p81", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", 1280, 720, 81, 40, 4.0),
        Work("A14B-480p81", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", 832, 480, 81, 40, 4.0),
        Work("5B-704p121", "Wan-AI/Wan2.2-TI2V-5B-Diffusers", 1280, 704, 121, 50, 5.0),
        Work("tiny", None, 64, 64, 9, 12, 4.0),
    )
}


def write_model(work: Work, models: Path, device: torch.device) -> Path:
    """Write the model of ``work`` with random weights and return its folder: the same arithmetic, no pictures.

    Where there are two experts, the second is a link to the first: they differ in nothing that is measured. A folder
    of ``models`` that was written to its end before is taken as it is.
    """
    folder = models / (work.model or "tiny").split("/")[-1]
    if (folder / _COMPLETE).exists():
        return folder
    tiny = write_tiny_model(folder)
    if work.model is None:
        return folder
    model = built_in(work.model)
    assert model is not None
    index = dict(model.configs("model_index.json"))
    for component in components(model):
        shutil.rmtree(folder / component, ignore_errors=True)
        if component == "transformer_2":
            (folder / component).symlink_to(folder / "transformer", target_is_directory=True)
            continue
        module = meta_module(model, component).to_empty(device=device)
        if hasattr(module, "tie_weights"):
            # Each got memory of its own; the text encoder's embedding would be there twice.
            module.tie_weights()
        generator = torch.Generator(device).manual_seed(1)
        for parameter in module.parameters():
            parameter.normal_(0, 0.02, generator=generator)
        module.save_pretrained(folder / component)
        del module
    _write_index(tiny, index)
    (folder / "wan22.json").unlink()
    (folder / _COMPLETE).touch()
    return folder


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    import json

    path = folder / "model_index.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"boundary_ratio": None, "expand_timesteps": False} | index, indent=2) + "\n")


def step_flop(model: ModelFolder, work: Work) -> int:
    """Return the floating-point operations of one step, both branches of guidance; counted without data."""
    transformer = meta_module(model, "transformer")
    inputs = example_inputs(model, transformer, work)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        transformer(**inputs, return_dict=False)
    return int(counter.get_total_flops()) * (2 if work.guidance_scale > 1 else 1)


def example_inputs(model: ModelFolder, transformer: Any, work: Work) -> dict[str, torch.Tensor]:
    """Return random arguments of ``model``'s ``transformer`` for one step of ``work``, one branch of its guidance."""
    config = transformer.config
    shape = (
        1,
        config.in_channels,
        model.latent_frames(work.num_frames),
        work.height // model.spatial_scale,
        work.width // model.spatial_scale,
    )
    first = next(transformer.patch_embedding.parameters())
    # A model for text or image has a timestep for each token.
    tokens = model.tokens(work.width, work.height, work.num_frames)
    return {
        "hidden_states": torch.randn(shape, dtype=first.dtype, device=first.device),
        "timestep": torch.rand((1, tokens) if model.image == "optional" else (1,), device=first.device),
        "encoder_hidden_states": torch.randn(1, _TEXT_TOKENS, config.text_dim, dtype=first.dtype, device=first.device),
    }
