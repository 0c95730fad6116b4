"""Draws loss curves and contact sheets."""

import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from training.reader import Frames

_INK, _FAINT, _LINE = (40, 40, 40), (216, 216, 216), (38, 84, 214)


def _font(path: str | None, size: int) -> Any:
    return ImageFont.truetype(path, size) if path else ImageFont.load_default(size)


def contact_sheet(
    path: Path, captions: list[str], videos: list[Frames], font: str | None = None, columns: int = 6, blocks: int = 2
) -> None:
    """Write a picture of several videos: a caption, then frames in a row.

    Args:
        path: the PNG to write.
        captions: one per video.
        videos: ``columns`` evenly spaced frames of each are drawn, the first and the last included.
        font: a font file; needed for Chinese captions.
        columns: number of frames per video.
        blocks: number of videos next to each other.
    """
    height, width = videos[0].shape[1:3]
    gap, line = 4, 22
    block_width, block_height = columns * (width + gap) + 20, height + line + 14
    rows = math.ceil(len(videos) / blocks)
    sheet = Image.new("RGB", (blocks * block_width + 4, rows * block_height + 6), "white")
    pen, face = ImageDraw.Draw(sheet), _font(font, 15)
    for number, (caption, video) in enumerate(zip(captions, videos, strict=True)):
        left, top = 12 + number % blocks * block_width, 4 + number // blocks * block_height
        pen.text((left, top), caption, fill=_INK, font=face)
        for column in range(columns):
            frame = video[round(column * (len(video) - 1) / (columns - 1))]
            sheet.paste(Image.fromarray(frame), (left + column * (width + gap), top + line))
    sheet.save(path, optimize=True)


def loss_curves(path: Path, curves: list[dict[str, Any]]) -> None:
    """Write one small log-scale panel per loss of the curves, which are in the form of ``Curve.as_dict``."""
    panels = [
        (f"{curve['name']}: {name}", curve["steps"], values)
        for curve in curves
        for name, values in curve["losses"].items()
    ]
    width, height, columns = 420, 220, 2
    sheet = Image.new("RGB", (width * columns, height * math.ceil(len(panels) / columns)), "white")
    pen, face = ImageDraw.Draw(sheet), _font(None, 13)
    for number, (title, steps, values) in enumerate(panels):
        left, top = number % columns * width + 60, number // columns * height + 28
        logs = [math.log10(max(value, 1e-6)) for value in values]
        low, high = min(logs), max(max(logs), min(logs) + 0.1)
        inner_width, inner_height = width - 80, height - 60
        pen.text((left, top - 22), title, fill=_INK, font=face)
        for share in (0.0, 0.5, 1.0):
            y = top + inner_height * (1 - share)
            pen.line([(left, y), (left + inner_width, y)], fill=_FAINT)
            pen.text((left - 54, y - 8), f"{10 ** (low + share * (high - low)):.2g}", fill=_INK, font=face)
        points = [
            (left + inner_width * step / steps[-1], top + inner_height * (1 - (value - low) / (high - low)))
            for step, value in zip(steps, logs, strict=True)
        ]
        pen.line(points, fill=_LINE, width=2)
        pen.text((left + inner_width - 90, top + inner_height + 4), f"{steps[-1]} steps", fill=_INK, font=face)
    sheet.save(path, optimize=True)
