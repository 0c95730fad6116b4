"""Recognises colour, shape and motion of a video by plain image analysis, without seeing the prompt."""

import cmath
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.scenes import COLOURS

Frames = NDArray[np.uint8]
"""A video of shape (frames, height, width, 3), sRGB."""

UNCLEAR = "unclear"
"""The reading of something that matches no known name; it never counts as right."""

# (third, fourth) angular moment and compactness of the ideal outlines; see _track.
_OUTLINES = {"circle": (0.0, 0.0, 1.0), "square": (0.0, 0.429, 0.955), "triangle": (0.659, 0.0, 0.827)}
_OUTLINE_TOLERANCE = 0.13
_LEAST_CONTRAST = 30.0
_LARGEST_COLOUR_ERROR = 75.0
# The weakest motion of each kind that counts: a share of the width, a ratio of areas, degrees.
_LEAST_TRAVEL, _LEAST_GROWTH, _LEAST_TURN = 0.15, 1.8, 40.0
# The strength that every drawn clip reaches at least; motions of different kinds are compared in these units.
_FULL_TRAVEL, _FULL_GROWTH, _FULL_TURN = 0.34, 4.0, 100.0


@dataclass(frozen=True)
class Reading:
    """What a video shows, each a name of ``scenes`` or ``unclear``; ``motion`` may also be ``still``."""

    shape: str
    colour: str
    ground: str
    motion: str


def read(frames: Frames) -> Reading:
    """Recognise the scene that ``frames`` show.

    The ground is the median colour of the border. The shape consists of the pixels whose distance from the ground is at
    least half of the largest. The moments of its outline tell the shape, and their change over time tells the motion.

    Raises:
        ValueError: fewer than 5 frames, or not of shape (frames, height, width, 3).
    """
    if frames.ndim != 4 or frames.shape[0] < 5 or frames.shape[3] != 3:
        raise ValueError(f"a video of shape (5 or more, height, width, 3) is wanted, not {frames.shape}")
    video = frames.astype(np.float64)
    edge = np.concatenate([video[:, [0, -1]].reshape(-1, 3), video[:, :, [0, -1]].reshape(-1, 3)])
    ground = np.median(edge, axis=0)
    contrast = np.linalg.norm(video - ground, axis=3)
    strongest = float(np.percentile(contrast, 99.5))
    if strongest < _LEAST_CONTRAST:
        return Reading(UNCLEAR, UNCLEAR, _colour(ground), UNCLEAR)
    masks = _without_specks(contrast > strongest / 2)
    if masks.sum(axis=(1, 2)).min() < 12:
        return Reading(UNCLEAR, UNCLEAR, _colour(ground), UNCLEAR)
    # Only pixels well inside the outline: antialiasing and chroma subsampling do not mix their colours.
    colour = np.median(video[_without_specks(contrast > 0.8 * strongest)], axis=0)
    tracks = [_track(mask) for mask in masks]
    shape = _shape(tracks)
    return Reading(shape, _colour(colour), _colour(ground), _motion(shape, tracks, frames.shape[2]))


def _colour(rgb: NDArray[np.float64]) -> str:
    errors = {name: float(np.linalg.norm(rgb - np.array(value))) for name, value in COLOURS.items()}
    name = min(errors, key=errors.__getitem__)
    return name if errors[name] < _LARGEST_COLOUR_ERROR else UNCLEAR


def _without_specks(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the pixels for which most of the 3x3 neighbourhood is set."""
    padded = np.pad(masks.astype(np.uint8), ((0, 0), (1, 1), (1, 1)))
    height, width = masks.shape[1:]
    votes = sum(padded[:, y : y + height, x : x + width].astype(int) for y in range(3) for x in range(3))
    return masks & (np.asarray(votes) >= 5)


@dataclass(frozen=True)
class _Track:
    """The shape in one frame, lengths in pixels; ``_track`` defines the moments."""

    x: float
    y: float
    area: float
    third: complex
    fourth: complex
    compactness: float


def _track(mask: NDArray[np.bool_]) -> _Track:
    """Measure one frame's mask.

    With z the position relative to the centroid, the n-th angular moment is sum(z**n) / sum(|z|**n): near 0 for a
    circle, large for an outline of n-fold symmetry, and its phase turns n times as fast as the shape. Compactness is
    area**2 / (2 pi sum(|z|**2)), 1 for a disc and less for anything else.
    """
    rows, columns = np.nonzero(mask)
    x, y = float(columns.mean()), float(rows.mean())
    z = (columns - x) + 1j * (rows - y)
    radius = np.abs(z)
    area = float(mask.sum())
    return _Track(
        x,
        y,
        area,
        complex((z**3).sum() / (radius**3).sum()),
        complex((z**4).sum() / (radius**4).sum()),
        area**2 / (2 * math.pi * float((radius**2).sum())),
    )


def _shape(tracks: list[_Track]) -> str:
    """Return the shape whose outline is closest to the typical frame; unclear if none is close."""
    seen = np.median([(abs(t.third), abs(t.fourth), t.compactness) for t in tracks], axis=0)
    errors = {name: float(np.linalg.norm(seen - np.array(ideal))) for name, ideal in _OUTLINES.items()}
    name = min(errors, key=errors.__getitem__)
    return name if errors[name] < _OUTLINE_TOLERANCE else UNCLEAR


def _motion(shape: str, tracks: list[_Track], width: int) -> str:
    """Return the strongest motion; unclear if two are nearly as strong or if it is not steady."""
    first, last = tracks[:2], tracks[-2:]
    x, y, area = (np.array([getattr(t, name) for t in tracks]) for name in ("x", "y", "area"))
    dx, dy = ((_mean(last, name) - _mean(first, name)) / width for name in ("x", "y"))
    growth = _mean(last, "area") / _mean(first, "area")
    turn = _turn(shape, tracks)
    strengths = {
        "left": (-dx / _FULL_TRAVEL, -dx >= _LEAST_TRAVEL, -x),
        "right": (dx / _FULL_TRAVEL, dx >= _LEAST_TRAVEL, x),
        "up": (-dy / _FULL_TRAVEL, -dy >= _LEAST_TRAVEL, -y),
        "down": (dy / _FULL_TRAVEL, dy >= _LEAST_TRAVEL, y),
        "growing": (math.log(growth) / math.log(_FULL_GROWTH), growth >= _LEAST_GROWTH, area),
        "turning": (abs(turn[-1] - turn[0]) / _FULL_TURN, abs(turn[-1] - turn[0]) >= _LEAST_TURN, turn),
    }
    (name, (strength, enough, way)), (_, (second, _, _)) = sorted(strengths.items(), key=lambda kv: -kv[1][0])[:2]
    if not enough:
        return "still"
    steady = abs(float(np.corrcoef(np.arange(len(way)), way)[0, 1])) > 0.9
    return name if steady and second < 0.6 * strength else UNCLEAR


def _mean(tracks: list[_Track], name: str) -> float:
    return float(np.mean([getattr(track, name) for track in tracks]))


def _turn(shape: str, tracks: list[_Track]) -> NDArray[np.float64]:
    """Return the angle of the shape in each frame, in degrees, unwrapped; zeros for a circle."""
    if shape not in ("square", "triangle"):
        return np.zeros(len(tracks))
    fold, name = (4, "fourth") if shape == "square" else (3, "third")
    phases = [cmath.phase(getattr(track, name)) for track in tracks]
    return np.degrees(np.unwrap(phases)) / fold
