"""Trains the transformers by flow matching: from noise at level 1 to latents at level 0 along straight lines."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from torch import Tensor

from training.loop import Curve, descend
from training.settings import Stretch, Training

_EMA_DECAY = 0.998
_PROMPT_LENGTH = 512
"""The number of tokens to which WanPipeline pads prompts."""


@dataclass(frozen=True)
class Examples:
    """The training data of the transformers, all on one device."""

    latents: Tensor
    """(clips, 16, latent frames, height, width), normalised."""
    scenes: Tensor
    """The scene of each clip, an index into ``prompts``."""
    prompts: Tensor
    """(scenes, phrasings, tokens, channels)."""
    blanks: Tensor
    """(n, tokens, channels): embeddings of prompts that name no scene."""


def build() -> Any:
    """Return an untrained transformer of 4 heads, so that 1, 2 and 4 ranks share it evenly."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=32, in_channels=16, out_channels=16,
        text_dim=96, freq_dim=128, ffn_dim=384, num_layers=5, rope_max_seq_len=64,
    )  # fmt: skip


def train(
    name: str,
    examples: Examples,
    settings: Training,
    stretch: Stretch,
    levels: tuple[float, float] = (0.0, 1.0),
    start: Any = None,
) -> tuple[Any, Curve]:
    """Train a transformer and return the running average of its weights.

    Args:
        name: the curve's name.
        examples: clips and prompts.
        settings: the seed and how noise and prompts are drawn.
        stretch: number of steps, batch size and learning rate.
        levels: the noise levels to train on, between 0 and 1.
        start: the model whose weights to begin from; None trains from scratch.
    """
    device = examples.latents.device
    torch.manual_seed(settings.seed + 3)
    generator = torch.Generator(device).manual_seed(settings.seed + 3)
    model = copy.deepcopy(start) if start is not None else _calm(build()).to(device)
    model.train().requires_grad_(True)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    if device.type == "cuda":
        # All blocks share one compiled block; each of the two prompt lengths is compiled separately.
        model.compile_repeated_blocks(dynamic=False)

    def step(number: int) -> dict[str, Tensor]:
        clean, text = _batch(examples, stretch.batch, settings.drop_prompt, generator)
        # Padding takes attention away from the words, so training begins with little padding. Later, one step in four
        # still uses short prompts, because a caller may set a shorter maximum than the pipeline's default.
        if (start is not None or number > stretch.steps // 2) and number % 4:
            text = F.pad(text, (0, 0, 0, _PROMPT_LENGTH - text.shape[1]))
        level = _levels(len(clean), settings.flow_shift, levels, generator)
        noise = torch.randn(clean.shape, device=device, generator=generator)
        at = level.view(-1, 1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            flow = model((1 - at) * clean + at * noise, level * 1000, text, return_dict=False)[0]
        loss = F.mse_loss(flow.float(), noise - clean)
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss}

    weights, averages = list(model.parameters()), list(average.parameters())

    @torch.no_grad()
    def follow(number: int) -> None:
        # The decay starts small, or the average would contain the first weights for too long.
        torch._foreach_lerp_(averages, weights, 1 - min(_EMA_DECAY, (number + 1) / (number + 10)))

    # The shipped weights were first trained with AdamW alone. Continued from there, the loss was 0.176 after 3600 steps
    # of Muon and 0.178 after 7200 steps of AdamW.
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim == 2] if start is not None else []
    return average, descend(name, [model], step, stretch.steps, stretch.rate, follow, matrices=matrices)


def _calm(model: Any) -> Any:
    """Initialise a model to predict zero with blocks that change little, as usual for diffusion transformers."""
    torch.nn.init.zeros_(model.proj_out.weight)
    torch.nn.init.zeros_(model.proj_out.bias)
    torch.nn.init.zeros_(model.condition_embedder.time_proj.weight)
    return model


def _batch(examples: Examples, size: int, drop: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return latents and prompt embeddings of one batch; a share ``drop`` of the prompts is replaced by blank ones."""
    device = examples.latents.device

    def pick(count: int) -> Tensor:
        return torch.randint(count, (size,), device=device, generator=generator)

    clips = pick(len(examples.latents))
    text = examples.prompts[examples.scenes[clips], pick(examples.prompts.shape[1])]
    dropped = torch.rand(size, device=device, generator=generator) < drop
    text = torch.where(dropped[:, None, None], examples.blanks[pick(len(examples.blanks))], text)
    return examples.latents[clips].float(), text.float()


def _levels(count: int, shift: float, between: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw noise levels with the density of the scheduler's steps: uniform, then shifted towards noise."""
    low, high = (level / (shift - (shift - 1) * level) for level in between)
    even = low + (high - low) * torch.rand(count, device=generator.device, generator=generator)
    return shift * even / (1 + (shift - 1) * even)
