"""Compares the scenes of videos with the requests in their prompts."""

from dataclasses import asdict
from typing import Any

import numpy as np

from training.prompts import understand
from training.reader import Frames, read


def score(prompts: list[str], videos: list[Frames]) -> dict[str, Any]:
    """Return the fractions of videos that show the requested scene, and one row per prompt.

    ``colour`` is right if the colours of both the shape and the ground are. An attribute that the prompt leaves open is
    always right. The reader sees only the frames; the prompts are used after it.
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
    """Return the peak signal-to-noise ratio in dB for the median of the videos' squared errors from the references."""
    errors = [
        float(((video.astype(float) - reference) ** 2).mean())
        for video, reference in zip(videos, references, strict=True)
    ]
    error = float(np.median(errors))
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
