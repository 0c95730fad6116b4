"""Frames that are decoded piece by piece are those that the pipeline decodes at once, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.video_processor import VideoProcessor

from app.model.decoding import pieces
from tests.app.model.makers import VAE_2_1, VAE_2_2


@pytest.mark.parametrize("config", [VAE_2_1, VAE_2_2], ids=["2.1", "2.2"])
@pytest.mark.parametrize("latent_frames", [1, 2, 4])
def test_pieces_are_the_whole(config: dict[str, Any], latent_frames: int) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**config).eval()
    latents = torch.randn(1, vae.config.z_dim, latent_frames, 4, 6)
    made = list(pieces(vae, latents))
    assert [len(piece) for piece in made] == [1] + [4] * (latent_frames - 1)
    with torch.inference_mode():
        # As WanPipeline ends.
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        scale = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        whole = vae.decode(latents / scale + mean, return_dict=False)[0]
        video = VideoProcessor().postprocess_video(whole, output_type="pt")[0]
    expected = (video * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.concatenate(made), expected)
    assert len(np.unique(expected)) > 10, "the pictures are no plain ground"
