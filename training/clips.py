"""Draws scenes as clips: flat colours, antialiased edges, one steady motion. It runs on the device of its generator."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.scenes import COLOURS, SHAPES, Scene

# The three shapes have the area of a circle of the same radius.
_SQUARE_HALF_SIDE = 0.886
_TRIANGLE_INRADIUS = 0.7776

# Ranges of the motions: travel, radius and growth as shares of the picture's width, turns in radians, clockwise.
_TRAVEL = (0.34, 0.48)
_RADIUS = (0.15, 0.21)
_GROWTH_FROM = (0.09, 0.12)
_GROWTH_TO = (0.24, 0.30)
_TURN = (1.75, 2.1)
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def draw(scenes: Sequence[Scene], frames: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw one clip per scene.

    Args:
        scenes: what to draw; B of them.
        frames: frames of each clip.
        size: width and height in pixels.
        generator: draws position, size, travel and start; the clips are drawn on its device.

    Returns:
        float32 of shape (B, 3, frames, size, size), sRGB scaled to -1..1.
    """
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(scenes), 1, generator=generator, device=device)

    def where(motion: str) -> Tensor:
        return torch.tensor([[scene.motion == motion] for scene in scenes], device=device)

    progress = torch.linspace(0, 1, frames, device=device)
    steps = torch.tensor([_DIRECTIONS.get(scene.motion, (0, 0)) for scene in scenes], device=device)
    travel = uniform(*_TRAVEL)
    # A moving shape passes the centre halfway, up to a small offset across its direction.
    along = (progress - 0.5) * travel + uniform(-0.03, 0.03)
    off_x, off_y = uniform(-0.12, 0.12), uniform(-0.12, 0.12)
    x = 0.5 + torch.where(steps[:, :1] != 0, steps[:, :1] * along, off_x)
    y = 0.5 + torch.where(steps[:, 1:] != 0, steps[:, 1:] * along, off_y)
    growth = torch.lerp(uniform(*_GROWTH_FROM), uniform(*_GROWTH_TO), progress)
    radius = torch.where(where("growing"), growth, uniform(*_RADIUS).expand(-1, frames))
    angle = torch.where(where("turning"), progress * uniform(*_TURN), 0.0)

    coverage = _coverage([scene.shape for scene in scenes], x, y, radius, angle, size)
    palette = torch.tensor(list(COLOURS.values()), device=device) / 127.5 - 1
    names = list(COLOURS)
    colour, ground = (
        palette[torch.tensor([names.index(name) for name in chosen], device=device)][:, :, None, None, None]
        for chosen in ([scene.colour for scene in scenes], [scene.ground for scene in scenes])
    )
    return ground + (colour - ground) * coverage[:, None]


def _coverage(shapes: list[str], x: Tensor, y: Tensor, radius: Tensor, angle: Tensor, size: int) -> Tensor:
    """Return the share of each pixel that the shape covers, 0..1, as (B, frames, size, size).

    Computed from the signed distance to the outline: a pixel whose centre is half a pixel inside is covered fully.
    """
    pixel = (torch.arange(size, device=x.device) + 0.5) / size
    dx = pixel[None, None, None, :] - x[:, :, None, None]
    dy = pixel[None, None, :, None] - y[:, :, None, None]
    cos, sin = angle.cos()[:, :, None, None], angle.sin()[:, :, None, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    r = radius[:, :, None, None]
    distances = {
        "circle": (u * u + v * v).sqrt() - r,
        "square": torch.maximum(u.abs(), v.abs()) - r * _SQUARE_HALF_SIDE,
        "triangle": torch.maximum(v, 3**0.5 / 2 * u.abs() - v / 2) - r * _TRIANGLE_INRADIUS,
    }
    index = torch.tensor([SHAPES.index(shape) for shape in shapes], device=x.device)[:, None, None, None]
    distance = distances["circle"]
    for number, shape in enumerate(SHAPES[1:], start=1):
        distance = torch.where(index == number, distances[shape], distance)
    return (0.5 - distance * size).clamp(0, 1)
