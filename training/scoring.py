"""Compares what videos show with what their prompts asked for."""

from dataclasses import asdict
from typing import Any

import numpy as np

from training.prompts import understand
from training.reader import Frames, read


def score(prompts: list[str], videos: list[Frames]) -> dict[str, Any]:
    """Return the fractions of videos that show what was asked, and one row per prompt.

    ``colour`` wants both the shape's and, where the prompt names one, the ground's. What a prompt leaves open is right.
    The reader gets the frames alone; prompts are only looked at afterwards.
    """
    rows = []
    for prompt, reading in zip(prompts, [read(video) for video in videos], strict=True):
        wish = understand(prompt)
        rows.append(
            {
                "prompt": prompt,
                "colour": wish.colour in (None, reading.colour) and wish.ground in (None, reading.ground),
                "shape": wish.shape in (None, reading.shape),
                "direction": wish.motion in (None, reading.motion),
                "reading": asdict(reading),
            }
        )
    fractions = {name: sum(bool(row[name]) for row in rows) / len(rows) for name in ("colour", "shape", "direction")}
    return {"prompts": len(rows), **fractions, "rows": rows}


def psnr(videos: list[Frames], references: list[Frames]) -> float:
    """Return the median over the videos of how near each is to its reference, in dB: peak signal-to-noise ratio."""
    errors = [
        float(((video.astype(float) - reference) ** 2).mean())
        for video, reference in zip(videos, references, strict=True)
    ]
    error = float(np.median(errors))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
