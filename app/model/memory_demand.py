"""Estimates the GPU memory of a rank: exact weights, estimated peaks of a request, and allowances for the rest.

``app.memory`` describes how the estimates were checked against measurements.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from app.model.folder import ModelFolder

if TYPE_CHECKING:
    from app.model.meta import Weights

GIB = 2**30
CONTEXT_GIB = 3.0
"""Allowance on each GPU for the CUDA context, NCCL's buffers and the memory of other libraries."""
STEP_SHARE = 0.25
"""Allowance for workspaces and rounding, as a share of a denoising step's estimated peak."""
VAE_SHARE = 1.0
"""Allowance for the workspaces of convolutions and fragmentation, as a share of the VAE's estimated peak."""


@dataclass(frozen=True)
class Size:
    """The size of a requested video."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    num_frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.num_frames} frames"


@dataclass(frozen=True)
class Demand:
    """The GPU memory that each rank of a gang needs for one request, in GiB."""

    loading: float
    """Weights on the GPU while they are loaded, before linear layers are quantized; 0 with offloading, which quantizes
    in host memory."""
    weights: float
    """Weights on each rank's GPU. The same on all ranks: parallelism splits tokens, not weights."""
    encoding_weights: float
    """Weights on the GPU while the input image is encoded: all, or with offloading the text encoder and the VAE."""
    decoding_weights: float
    """Weights on the GPU while frames are decoded: all, or with offloading the VAE."""
    encode: float
    """Peak of encoding the input image into latents, besides the weights; the same on all ranks."""
    denoise: float
    """Peak of one denoising step, besides the weights; the same on all ranks."""
    decode: float
    """Peak of decoding latents into frames, besides the weights, on rank 0; the other ranks need no more."""

    @property
    def each(self) -> float:
        """The GPU memory that one rank needs: the largest peak of loading, encoding, denoising and decoding, with the
        allowances."""
        encoding = self.encoding_weights + self.encode * (1 + VAE_SHARE)
        denoising = self.weights + self.denoise * (1 + STEP_SHARE)
        decoding = self.decoding_weights + self.decode * (1 + VAE_SHARE)
        return max(self.loading, encoding, denoising, decoding) + CONTEXT_GIB

    def offloaded(self, parts: "list[Weights]") -> "Demand":
        """Return this demand with offloaded weights: the GPU then holds the VAE and at most one other component.

        While frames are decoded it holds the VAE alone. See ``app.model.offload``.

        Args:
            parts: the weights of every component, as ``rank_weights`` returns them.
        """
        sizes = {part.component: part.bytes / GIB for part in parts}
        vae = sizes["vae"]
        return replace(
            self,
            loading=0.0,
            weights=vae + max(size for component, size in sizes.items() if component != "vae"),
            encoding_weights=vae + sizes["text_encoder"],
            decoding_weights=vae,
        )


def demand(model: ModelFolder, ranks: int, size: Size | None = None, *, fp8_linear: bool = False) -> Demand:
    """Estimate what each of ``ranks`` ranks needs with all weights on its GPU.

    Args:
        model: the model.
        ranks: the size of the gang.
        size: the video; by default the model's default size.
        fp8_linear: whether the ranks quantize linear layers (the option of the same name).
    """
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


@cache
def rank_weights(model: ModelFolder, fp8_linear: bool) -> "list[Weights]":
    """Return the weights of every component as a rank on a GPU holds them."""
    from app.model.meta import weights

    return weights(model, fp8_linear=fp8_linear)


def guided_by_default(model: ModelFolder) -> bool:
    """Return True if the model's default request uses classifier-free guidance, which runs two branches per step."""
    return model.defaults.guidance_scale > 1
