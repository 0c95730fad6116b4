"""The scenes that the tiny Wan can draw: one coloured shape with one motion on a coloured ground."""

import random
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 144, 30),
    "yellow": (250, 222, 60),
    "green": (42, 157, 78),
    "blue": (38, 84, 214),
    "purple": (138, 56, 186),
    "white": (244, 244, 244),
    "black": (22, 22, 24),
}
"""The palette, as 8-bit sRGB; the colours are far enough apart to tell which one a mixed colour is closest to."""

SHAPES = ("circle", "square", "triangle")
MOTIONS = ("left", "right", "up", "down", "growing", "turning")

HELD_OUT_COUNT = 100
_HELD_OUT_SEED = 20


@dataclass(frozen=True)
class Scene:
    """One thing to draw; each field is a name from this module."""

    shape: str
    colour: str
    ground: str
    motion: str


def all_scenes() -> list[Scene]:
    """Return all scenes: the ground's colour differs from the shape's, and no circle turns (nobody could see it)."""
    return [
        Scene(shape, colour, ground, motion)
        for shape in SHAPES
        for colour in COLOURS
        for ground in COLOURS
        for motion in MOTIONS
        if colour != ground and (shape, motion) != ("circle", "turning")
    ]


def held_out_scenes() -> list[Scene]:
    """Return the 100 scenes that training never sees, drawn with a fixed seed."""
    return random.Random(_HELD_OUT_SEED).sample(all_scenes(), HELD_OUT_COUNT)


def training_scenes() -> list[Scene]:
    """Return every scene that is not held out."""
    held_out = set(held_out_scenes())
    return [scene for scene in all_scenes() if scene not in held_out]
