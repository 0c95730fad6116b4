"""Decodes latents into frames piece by piece, so that the first ones are encoded while the next are made.

The arithmetic is that of the Wan pipelines and of their VAE, operation by operation: the frames are the same, bit for
bit. What differs is that no more than one piece is in memory at a time, not the whole video several times over. Several
ranks may share each piece: see ``app.model.vae_parallel``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from numpy.typing import NDArray

from app.model.vae_parallel import RowShard, sharded


def pieces(vae: Any, latents: torch.Tensor, rank: int = 0, ranks: int = 1) -> Iterator[NDArray[np.uint8]]:
    """Yield the video's frames in order, those of one latent frame at a time.

    Every rank of the process group runs this to its end, in step; the pieces come on rank 0, from its latents.

    Args:
        vae: a diffusers AutoencoderKLWan.
        latents: (1, channels, frames, rows, columns), as a Wan pipeline returns them; on all ranks of the same shape.
        rank: this one.
        ranks: how many share the work.

    Yields:
        (frames, height, width, 3), RGB, 0 to 255.
    """
    rows = RowShard.split(latents.shape[3], rank, ranks)
    if rows.is_empty:
        return
    for piece in decoded(vae, latents, rows):
        if piece is not None:
            yield piece.cpu().numpy()


def decoded(vae: Any, latents: torch.Tensor, rows: RowShard) -> Iterator[torch.Tensor | None]:
    """Yield what ``vae`` makes of each latent frame, on its device: as ``pieces`` on rank 0, None on the others."""
    with torch.inference_mode(), sharded(vae.decoder, rows):
        latents = _denormalized(vae, rows.scatter(latents))
        vae.clear_cache()
        try:
            features = vae.post_quant_conv(latents)
            for index in range(features.shape[2]):
                # The causal convolutions keep what they need of the frames before in _feat_map; the index walks over
                # it.
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
    latents = latents.to(vae.device, vae.dtype)
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(latents.device, latents.dtype)
    scale = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(latents.device, latents.dtype)
    return latents / scale + mean


def _to_uint8(video: torch.Tensor) -> torch.Tensor:
    """Turn (3, frames, height, width) in -1..1 into (frames, height, width, 3) in 0..255."""
    video = (video.clamp(-1, 1) * 0.5 + 0.5).clamp(0, 1)
    return (video * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
