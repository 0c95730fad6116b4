"""Decodes latents into frames piece by piece, so that the first frames are encoded while the next are decoded.

The operations are those of diffusers 0.42 (``AutoencoderKLWan._decode``, the end of ``WanPipeline.__call__`` and
``VideoProcessor``) in the same order, so the frames are the same bit for bit. The difference is memory: only one piece
exists at a time, instead of several copies of the whole video. Several ranks may share each piece: see
``app.model.vae_parallel``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from numpy.typing import NDArray

from app.model.vae_parallel import RowShard, sharded


def pieces(vae: Any, latents: torch.Tensor, rank: int = 0, ranks: int = 1) -> Iterator[NDArray[np.uint8]]:
    """Decode a video and yield the frames of one latent frame after the other.

    Each of ``ranks`` ranks must run this iterator to its end, in lockstep. Only rank 0 yields pieces, and only its
    latents are decoded.

    Args:
        vae: a diffusers AutoencoderKLWan.
        latents: (1, channels, frames, rows, columns), as a Wan pipeline returns them; the same shape on all ranks.
        rank: the rank of this process.
        ranks: the number of ranks that share the work; 1 needs no process group.

    Yields:
        (frames, height, width, 3), uint8, RGB: 1 frame of the first latent frame, 4 of each other one.
    """
    rows = RowShard.split(latents.shape[3], rank, ranks)
    if rows.is_empty:
        return
    for piece in decoded(vae, latents, rows):
        if piece is not None:
            yield piece.cpu().numpy()


def decoded(vae: Any, latents: torch.Tensor, rows: RowShard) -> Iterator[torch.Tensor | None]:
    """Decode one latent frame after the other.

    Rank 0 yields uint8 frames (frames, height, width, 3) on the VAE's device; the other ranks yield None.
    """
    with torch.inference_mode(), sharded(vae.decoder, rows):
        latents = _denormalized(vae, rows.scatter(latents))
        vae.clear_cache()
        try:
            features = vae.post_quant_conv(latents)
            for index in range(features.shape[2]):
                # Each causal convolution keeps the last frames of its input in its own element of _feat_map; _conv_idx
                # counts through these elements in every call of the decoder.
                vae._conv_idx = [0]
                piece = vae.decoder(
                    features[:, :, index : index + 1],
                    feat_cache=vae._feat_map,
                    feat_idx=vae._conv_idx,
                    first_chunk=index == 0,
                )
                if vae.config.patch_size is not None:
                    piece = unpatchify(piece, patch_size=vae.config.patch_size)
                yield rows.gather(_to_uint8(piece[0]), 1)
        finally:
            vae.clear_cache()


def _denormalized(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Undo the normalization of latents, in the same operations as the end of ``WanPipeline.__call__``."""
    latents = latents.to(vae.device, vae.dtype)
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, latents.dtype)
    scale = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents.device, latents.dtype)
    return latents / scale + mean


def _to_uint8(video: torch.Tensor) -> torch.Tensor:
    """Convert (3, frames, height, width) in -1..1 to (frames, height, width, 3) in 0..255."""
    video = (video.clamp(-1, 1) * 0.5 + 0.5).clamp(0, 1)
    return (video * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
