"""Trains the video autoencoder: 16 channels, 8 times smaller in height and width, 4 times in time, as in Wan 2.1."""

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor

from training.clips import draw
from training.loop import Curve, descend
from training.scenes import training_scenes
from training.settings import Training

# The fixed standard deviation of the posterior. The decoder learns to tolerate errors of this size, which the latents
# of the transformer have.
_POSTERIOR_STD = 0.1
_LATENT_PENALTY = 3e-4
_PATCH = 2


def build() -> Any:
    """Return an untrained autoencoder.

    Its input is patches of 2x2 pixels, which needs a quarter of the work, and its blocks have the parameter-free
    shortcuts of Wan 2.2's 5B model. Both make it learn much faster.
    """
    return AutoencoderKLWan(
        base_dim=16, z_dim=16, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[True, True],
        in_channels=12, out_channels=12, patch_size=_PATCH, is_residual=True,
        latents_mean=[0.0] * 16, latents_std=[1.0] * 16,
    )  # fmt: skip


def train(settings: Training, device: str) -> tuple[Any, Curve]:
    """Train on freshly drawn clips, and set the mean and standard deviation of the latents in the config.

    Most steps train on crops of a quarter of the area and half the frames: outlines are small, and a step holds more
    clips.
    """
    torch.manual_seed(settings.seed)
    autoencoder = build().to(device)
    rng, generator = random.Random(settings.seed), torch.Generator(device).manual_seed(settings.seed)
    scenes = training_scenes()
    crop_frames, crop_size = settings.frames // 8 * 4 + 1, settings.size // 2

    def draw_crops() -> Tensor:
        clips = draw(rng.sample(scenes, settings.autoencoder_batch), settings.frames, settings.size, generator)
        first = 4 * rng.randint(0, (settings.frames - crop_frames) // 4)
        top, left = (rng.randint(0, settings.size - crop_size) for _ in range(2))
        return clips[:, :, first : first + crop_frames, top : top + crop_size, left : left + crop_size].contiguous()

    def draw_whole() -> Tensor:
        few = max(1, settings.autoencoder_batch // 6)
        return draw(rng.sample(scenes, few), settings.frames, settings.size, generator)

    crops_until = int(settings.autoencoder_steps * 0.8)
    on_crops, on_whole = (_Step(autoencoder, source, device) for source in (draw_crops, draw_whole))

    def step(number: int) -> dict[str, Tensor]:
        return (on_crops if number < crops_until else on_whole)()

    curve = descend("autoencoder", [autoencoder], step, settings.autoencoder_steps, settings.autoencoder_rate)
    _fix_posterior(autoencoder)
    latents = encode(
        autoencoder, draw(rng.sample(scenes, min(128, settings.clips)), settings.frames, settings.size, generator)
    )
    autoencoder.register_to_config(
        latents_mean=[round(float(value), 4) for value in latents.mean(dim=(0, 2, 3, 4))],
        latents_std=[round(float(value), 4) for value in latents.std(dim=(0, 2, 3, 4))],
    )
    return autoencoder, curve


class _Step:
    """Computes the gradients of one batch; on a GPU as a CUDA graph, since launching the kernels takes most time."""

    def __init__(self, autoencoder: Any, source: Callable[[], Tensor], device: str) -> None:
        self._autoencoder = autoencoder
        self._source = source
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._clips = torch.empty(0)
        self._losses: dict[str, Tensor] = {}

    def __call__(self) -> dict[str, Tensor]:
        clips = self._source()
        if self._device != "cuda":
            self._autoencoder.zero_grad()
            return self._gradients(clips)
        if self._graph is None:
            self._graph, self._clips = self._record(clips)
        self._clips.copy_(clips)
        self._graph.replay()
        return {name: value.clone() for name, value in self._losses.items()}

    def _record(self, clips: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        clips = clips.clone()
        # Before a graph can be recorded, the step must have run on a separate stream.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._autoencoder.zero_grad()
                self._gradients(clips)
        torch.cuda.current_stream().wait_stream(stream)
        # Recorded without existing gradients, a replay overwrites the gradients instead of adding to them.
        self._autoencoder.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._losses = self._gradients(clips)
        return graph, clips

    def _gradients(self, clips: Tensor) -> dict[str, Tensor]:
        mean = _encode_at_once(self._autoencoder, clips)
        restored = _decode_at_once(self._autoencoder, mean + _POSTERIOR_STD * torch.randn_like(mean))
        pixels = F.l1_loss(restored, clips)
        across, down = (F.l1_loss(restored.diff(dim=dim), clips.diff(dim=dim)) for dim in (4, 3))
        loss = pixels + across + down + _LATENT_PENALTY * mean.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach(), "pixels": pixels.detach()}


def _encode_at_once(autoencoder: Any, clips: Tensor) -> Tensor:
    """Return the unnormalised latents in two chunks, the first frame and the rest, instead of one per latent frame."""
    cache = [None] * autoencoder._cached_conv_counts["encoder"]
    patches = patchify(clips, _PATCH)
    chunks = [
        autoencoder.encoder(chunk, feat_cache=cache, feat_idx=[0]) for chunk in (patches[:, :, :1], patches[:, :, 1:])
    ]
    moments: Tensor = autoencoder.quant_conv(torch.cat(chunks, dim=2))
    return moments[:, :16]


def _decode_at_once(autoencoder: Any, latents: Tensor) -> Tensor:
    """Return the decoded clips, not clamped, in two chunks as ``_encode_at_once``."""
    cache = [None] * autoencoder._cached_conv_counts["decoder"]
    latents = autoencoder.post_quant_conv(latents)
    chunks = [
        autoencoder.decoder(chunk, feat_cache=cache, feat_idx=[0], first_chunk=first)
        for chunk, first in ((latents[:, :, :1], True), (latents[:, :, 1:], False))
    ]
    clips: Tensor = unpatchify(torch.cat(chunks, dim=2), _PATCH)
    return clips


@torch.no_grad()
def _fix_posterior(autoencoder: Any) -> None:
    """Set the log variance, the second half of the encoder's channels, to the deviation of the training."""
    autoencoder.quant_conv.weight[16:] = 0
    autoencoder.quant_conv.bias[16:] = 2 * torch.log(torch.tensor(_POSTERIOR_STD))


@torch.no_grad()
def encode(autoencoder: Any, clips: Tensor) -> Tensor:
    """Return the unnormalised latents of ``clips``, (B, 3, frames, height, width)."""
    return _encode_at_once(autoencoder, clips)


def latent_statistics(autoencoder: Any, device: str) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the latents, shaped to broadcast over (B, 16, frames, height, width)."""
    config = autoencoder.config
    mean, std = (torch.tensor(v, device=device).view(1, 16, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    return mean, std


def training_latents(autoencoder: Any, settings: Training, device: str) -> tuple[Tensor, Tensor]:
    """Draw and encode the transformers' clips.

    Returns:
        normalised latents, bfloat16 of shape (clips, 16, latent frames, height / 8, width / 8), and the index of each
        clip's scene in ``training_scenes()``.
    """
    rng, generator = random.Random(settings.seed + 1), torch.Generator(device).manual_seed(settings.seed + 1)
    scenes = training_scenes()
    # Every scene equally often, in random order.
    order = [index % len(scenes) for index in range(settings.clips)]
    rng.shuffle(order)
    mean, std = latent_statistics(autoencoder, device)
    batches = []
    for start in range(0, settings.clips, 128):
        clips = draw([scenes[index] for index in order[start : start + 128]], settings.frames, settings.size, generator)
        batches.append(((encode(autoencoder, clips) - mean) / std).bfloat16())
    return torch.cat(batches), torch.tensor(order, device=device)
