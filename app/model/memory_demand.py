"""Estimates how much GPU memory a rank needs: exact weights, estimated peaks, and allowances for what neither counts.

``app.memory`` says how the estimates were checked.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from app.model.folder import ModelFolder

if TYPE_CHECKING:
    from app.model.meta import Weights

GIB = 2**30
CONTEXT_GIB = 3.0
"""Allowed on each GPU for its context, NCCL's buffers and the libraries' own."""
STEP_SHARE = 0.25
"""Allowed on top of a step's estimated peak for workspaces and rounding."""
VAE_SHARE = 1.0
"""Allowed on top of the VAE's: for its convolutions' workspaces, and the allocator's memory in pieces."""


@dataclass(frozen=True)
class Size:
    """The video that is asked for."""

    width: int
    height: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.num_frames} frames"


@dataclass(frozen=True)
class Demand:
    """What the ranks of one gang need for one request, in GiB."""

    loading: float
    """All weights as their files have them: 8-bit floats are made of these, on the GPU."""
    weights: float
    """On every rank's GPU the same: the plan splits a request's tokens, not the model."""
    encoding_weights: float
    """What of them is there while an image is encoded; where components come in turn, text encoder and VAE."""
    decoding_weights: float
    """What of them is there while frames are decoded; where components come in turn, the VAE alone."""
    encode: float
    """The request's image into latents, on every rank."""
    denoise: float
    """A step, on every rank."""
    decode: float
    """The latents into frames, on rank 0 at least as much as on the others."""

    @property
    def each(self) -> float:
        """The most of that at one time on one rank, with the allowances."""
        encoding = self.encoding_weights + self.encode * (1 + VAE_SHARE)
        denoising = self.weights + self.denoise * (1 + STEP_SHARE)
        decoding = self.decoding_weights + self.decode * (1 + VAE_SHARE)
        return max(self.loading, encoding, denoising, decoding) + CONTEXT_GIB


def demand(model: ModelFolder, ranks: int, size: Size | None = None, *, fp8_linear: bool = False) -> Demand:
    """Return what each of ``ranks`` ranks needs with all weights on its GPU; the size is by default the model's."""
    from app.model.peak_memory import decode_peak, denoise_peak, encode_peak

    size = size or Size(model.defaults.width, model.defaults.height, model.defaults.num_frames)
    measures = (size.width, size.height, size.num_frames)
    loading, weights = (sum(part.bytes for part in rank_weights(model, fp8)) / GIB for fp8 in (False, fp8_linear))
    return Demand(
        loading=loading,
        weights=weights,
        encoding_weights=weights,
        decoding_weights=weights,
        encode=encode_peak(model, *measures) / GIB,
        denoise=denoise_peak(model, ranks, *measures, guided_by_default(model)) / GIB,
        decode=decode_peak(model, *measures, ranks) / GIB,
    )


def offloaded(demand: Demand, parts: "list[Weights]") -> Demand:
    """Return ``demand`` with offloaded weights: of ``parts``, the VAE and one other component are on the GPU at a time.

    While frames are decoded, the VAE is there alone. See ``app.model.offload``.
    """
    sizes = {part.component: part.bytes / GIB for part in parts}
    vae = sizes.pop("vae")
    return replace(
        demand,
        loading=0.0,
        weights=vae + max(sizes.values()),
        encoding_weights=vae + sizes["text_encoder"],
        decoding_weights=vae,
    )


@cache
def rank_weights(model: ModelFolder, fp8_linear: bool) -> "list[Weights]":
    """Return the weights of each component as a rank on a GPU holds them."""
    from app.model.meta import weights

    return weights(model, fp8_linear=fp8_linear)


def guided_by_default(model: ModelFolder) -> bool:
    """Return whether the model's default request uses classifier-free guidance."""
    return model.defaults.guidance_scale > 1
