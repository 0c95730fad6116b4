"""Still pictures of a video: its first frame, and a sheet of frames in the order of time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from PIL import Image

THUMBNAIL_SIDE = 512
"""The longer side of a thumbnail, in pixels; a smaller video is not enlarged."""
TILE_SIDE = 320
"""The longer side of each frame on a sheet, in pixels."""
COLUMNS = 4
MAX_TILES = 16
"""Frames on a sheet, spread evenly from the first to the last; all frames of a shorter video."""


class UnreadableVideoError(ValueError):
    """The file is no video that can be decoded."""


def write_thumbnail(video: Path, file: Path) -> None:
    """Write the first frame of ``video`` to ``file`` as WebP.

    Raises:
        UnreadableVideoError: the video cannot be decoded.
    """
    picture = next(_frames(video, [0], THUMBNAIL_SIDE), None)
    if picture is None:
        raise UnreadableVideoError(f"{video} has no frame")
    picture.save(file, "WEBP", quality=80)


def write_spritesheet(video: Path, file: Path) -> None:
    """Write frames of ``video`` to ``file`` as one JPEG, row by row.

    Raises:
        UnreadableVideoError: the video cannot be decoded.
    """
    with _decoding(video) as container:
        count = container.streams.video[0].frames
    tiles = min(count, MAX_TILES)
    wanted = [round(tile * (count - 1) / max(1, tiles - 1)) for tile in range(tiles)]
    sheet: Image.Image | None = None
    for place, picture in enumerate(_frames(video, wanted, TILE_SIDE)):
        if sheet is None:
            columns = min(COLUMNS, tiles)
            sheet = Image.new("RGB", (columns * picture.width, -(-tiles // columns) * picture.height))
        row, column = divmod(place, COLUMNS)
        sheet.paste(picture, (column * picture.width, row * picture.height))
    if sheet is None:
        raise UnreadableVideoError(f"{video} has no frame")
    sheet.save(file, "JPEG", quality=85)


def _frames(video: Path, wanted: list[int], side: int) -> Iterator[Image.Image]:
    """Yield the frames of the numbers ``wanted``, which ascend, scaled so that no side is longer than ``side``."""
    left = iter(wanted)
    number = next(left, None)
    with _decoding(video) as container:
        for found, frame in enumerate(container.decode(video=0)):
            if number is None:
                return
            if found == number:
                scale = min(1.0, side / max(frame.width, frame.height))
                width, height = (max(1, round(length * scale)) for length in (frame.width, frame.height))
                pixels = frame.reformat(width=width, height=height, format="rgb24").to_ndarray()
                yield Image.fromarray(pixels)
                number = next(left, None)


@contextmanager
def _decoding(video: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(video)) as container:
            yield container
    except (av.FFmpegError, IndexError) as error:
        raise UnreadableVideoError(f"{video}: {error}") from error
