"""Thumbnails and sheets show the frames that they should, and are bounded in size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.media.mp4 import write_mp4
from app.media.stills import (
    MAX_TILES,
    THUMBNAIL_SIDE,
    TILE_SIDE,
    UnreadableVideoError,
    write_spritesheet,
    write_thumbnail,
)


def film(path: Path, frames: int, width: int = 64, height: int = 32) -> Path:
    """Write a video whose frames become brighter, from black to white."""
    shades = np.linspace(0, 255, frames).astype(np.uint8)
    write_mp4([np.broadcast_to(shades[:, None, None, None], (frames, height, width, 3)).copy()], 8, path)
    return path


def test_a_thumbnail_is_the_first_frame(tmp_path: Path) -> None:
    frames = np.full((5, 32, 64, 3), 255, np.uint8)
    frames[0] = (220, 30, 40)
    write_mp4([frames], 8, tmp_path / "v.mp4")
    write_thumbnail(tmp_path / "v.mp4", tmp_path / "still")
    with Image.open(tmp_path / "still") as picture:
        assert (picture.format, picture.size) == ("WEBP", (64, 32))
        assert np.abs(np.asarray(picture.convert("RGB")).astype(int) - (220, 30, 40)).max() < 12


def test_the_frames_of_a_sheet_are_spread_over_the_video(tmp_path: Path) -> None:
    write_spritesheet(film(tmp_path / "v.mp4", 81), tmp_path / "sheet")
    with Image.open(tmp_path / "sheet") as picture:
        assert (picture.format, picture.size) == ("JPEG", (4 * 64, 4 * 32))
        shades = np.asarray(picture.convert("L")).astype(int)[16::32, 32::64].ravel()
    assert np.abs(shades - np.linspace(0, 255, MAX_TILES)).max() < 12


@pytest.mark.parametrize(("frames", "tiles"), [(1, (1, 1)), (3, (3, 1)), (5, (4, 2)), (17, (4, 4))])
def test_a_short_video_fills_a_smaller_sheet(frames: int, tiles: tuple[int, int], tmp_path: Path) -> None:
    write_spritesheet(film(tmp_path / "v.mp4", frames), tmp_path / "sheet")
    with Image.open(tmp_path / "sheet") as picture:
        assert picture.size == (64 * tiles[0], 32 * tiles[1])


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (720, 1280), (2048, 16)])
def test_stills_of_a_large_video_are_bounded(width: int, height: int, tmp_path: Path) -> None:
    video = film(tmp_path / "v.mp4", 2, width, height)
    write_thumbnail(video, tmp_path / "still")
    write_spritesheet(video, tmp_path / "sheet")
    with Image.open(tmp_path / "still") as still, Image.open(tmp_path / "sheet") as sheet:
        assert max(still.size) == THUMBNAIL_SIDE
        assert max(sheet.width // 2, sheet.height) == TILE_SIDE
        assert abs(still.width / still.height / (width / height) - 1) < 0.01


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_a_damaged_video_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    for write in (write_thumbnail, write_spritesheet):
        with pytest.raises(UnreadableVideoError, match=r"v\.mp4"):
            write(tmp_path / "v.mp4", tmp_path / "still")
