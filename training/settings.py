"""All numbers of the training, and the default request of the tiny models."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stretch:
    """One stretch of training."""

    steps: int
    """Optimiser steps."""
    batch: int
    """Clips per step."""
    rate: float
    """The highest learning rate."""


@dataclass(frozen=True)
class Training:
    """Length and data of each part's training. Lengths are optimiser steps, batches are clips or prompts."""

    seed: int = 0
    size: int = 128
    """Width and height of a clip in pixels."""
    frames: int = 17
    autoencoder_steps: int = 4000
    autoencoder_batch: int = 48
    autoencoder_rate: float = 2e-3
    text_steps: int = 2000
    text_batch: int = 512
    text_prompts: int = 65536
    """Number of different prompts for the text encoder; a few thousand are too few: it memorises them and confuses
    colours."""
    text_rate: float = 2e-3
    clips: int = 49152
    """Number of clips that are drawn and encoded once, for the transformers."""
    phrasings: int = 32
    """Number of prompts for each scene."""
    transformer: Stretch = Stretch(8000, 512, 2e-3)
    expert: Stretch = Stretch(800, 512, 6e-4)
    """The training of each expert, which starts from the single transformer's weights, on its own noise levels."""
    further_transformer: Stretch = Stretch(9000, 256, 1.2e-3)
    """The additional training of ``--further``; its experts start again from the transformer."""
    further_expert: Stretch = Stretch(3500, 256, 8e-4)
    drop_prompt: float = 0.12
    """Share of clips that are trained without their prompt, for classifier-free guidance."""
    flow_shift: float = 3.0
    boundary_ratio: float = 0.875
    """Noise level from which the high-noise expert works, as in Wan2.2-T2V-A14B."""

    def rehearsal(self) -> "Training":
        """Return the same training with a few steps, which only shows that everything runs."""
        few = Stretch(4, 4, 1e-3)
        return replace(
            self, autoencoder_steps=3, autoencoder_batch=2, text_steps=20, text_batch=32, text_prompts=500,
            clips=16, phrasings=2, transformer=few, expert=few, further_transformer=few, further_expert=few,
        )  # fmt: skip


@dataclass(frozen=True)
class Defaults:
    """The ``defaults`` of a model folder's ``wan22.json``."""

    prompt: str = "a red circle moving right on a blue ground"
    negative_prompt: str = ""
    width: int = 128
    height: int = 128
    num_frames: int = 17
    num_inference_steps: int = 10
    guidance_scale: float = 2.5
    fps: int = 8
