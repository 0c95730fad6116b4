"""Scores compare what was read with what was asked."""

import numpy as np
import pytest
import torch

from training.clips import draw
from training.scenes import Scene
from training.scoring import psnr, score


def test_fractions_count_what_is_right_and_leave_open_what_the_prompt_does() -> None:
    drawn = draw([Scene("circle", "red", "blue", "left")], 17, 128, torch.Generator().manual_seed(0))[0]
    video = ((drawn + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    prompts = [
        "a red circle moving left",
        "a red square rising on a blue ground",
        "a red circle on a green ground",
        "anything",
    ]
    scores = score(prompts, [video] * 4)
    assert (scores["prompts"], scores["colour"], scores["shape"], scores["direction"]) == (4, 0.75, 0.75, 0.75)


def test_nearness_is_the_median_videos_in_db() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr([black], [black]) == float("inf")
    # One level of 255 everywhere: 10 log10(255^2).
    assert psnr([black, black, black], [black, black + 1, black + 200]) == pytest.approx(48.13, abs=0.01)
