"""The mp4 has the frames, the size and the rate that were asked for, and its picture is right."""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from app.media.mp4 import read_mp4, write_mp4


@pytest.mark.parametrize(("frames", "fps"), [(1, 16), (9, 8), (17, 24)])
def test_frames_size_and_rate(frames: int, fps: int, tmp_path: Path) -> None:
    write_mp4([np.zeros((frames, 48, 64, 3), np.uint8)], fps, tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.width, stream.height) == ("h264", frames, 64, 48)
        assert stream.average_rate == fps


def test_a_picture_comes_back_in_its_colours(tmp_path: Path) -> None:
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    frames[:, :, :32] = (220, 30, 40)
    frames[:, :, 32:] = (20, 60, 200)
    write_mp4([frames], 8, tmp_path / "v.mp4")
    assert np.abs(read_mp4(tmp_path / "v.mp4").astype(int) - frames)[:, :, [8, 56]].max() < 12


BARS = [
    (255, 255, 255),
    (191, 191, 0),
    (0, 191, 191),
    (0, 191, 0),
    (191, 0, 191),
    (191, 0, 0),
    (0, 0, 191),
    (0, 0, 0),
    (128, 128, 128),
]
BT_709 = 1
"""The number of BT.709's primaries, transfer function and matrix in ITU-T H.273."""


def test_colour_bars_are_bt_709_and_the_file_says_so(tmp_path: Path) -> None:
    bars = np.repeat(np.repeat(np.array([[BARS]], np.uint8), 64, 1), 32, 2)
    write_mp4([np.repeat(bars, 3, 0)], 8, tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert tags == (BT_709, BT_709, BT_709, 1), "players take the matrix and the limited range (1) from the stream"
        planes = next(container.decode(video=0)).to_ndarray()
    box = (tmp_path / "v.mp4").read_bytes().partition(b"colrnclx")[2]
    assert struct.unpack(">HHHB", box[:7]) == (BT_709, BT_709, BT_709, 0), "and from the mp4's box; 0: limited range"
    width = bars.shape[2]
    half = np.arange(len(BARS)) * 16 + 8
    chroma = planes[64:].reshape(2, 32, width // 2)
    rgb = _rgb_of_bt_709(planes[32, 2 * half], chroma[0, 16, half], chroma[1, 16, half])
    assert np.abs(rgb - np.array(BARS)).max() <= 3
    assert np.abs(read_mp4(tmp_path / "v.mp4")[0, 32, 2 * half].astype(int) - np.array(BARS)).max() <= 3


def _rgb_of_bt_709(y: NDArray[Any], cb: NDArray[Any], cr: NDArray[Any]) -> NDArray[Any]:
    """Convert limited-range YCbCr to RGB by the equations of ITU-R BT.709 (Kr 0.2126, Kb 0.0722)."""
    luma, blue, red = (y - 16.0) / 219, (cb - 128.0) / 224, (cr - 128.0) / 224
    r, b = luma + 2 * (1 - 0.2126) * red, luma + 2 * (1 - 0.0722) * blue
    g = (luma - 0.2126 * r - 0.0722 * b) / 0.7152
    return np.clip(255 * np.stack([r, g, b], -1), 0, 255).round()


def test_equal_frames_make_equal_files(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_mp4([frames], 8, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_video_in_pieces_is_the_same_file(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3), np.uint8)
    write_mp4([frames], 8, tmp_path / "whole.mp4")
    write_mp4((frames[start : start + 4] for start in range(0, 9, 4)), 8, tmp_path / "pieces.mp4")
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "pieces.mp4").read_bytes()


def test_each_piece_is_encoded_while_the_next_is_made(tmp_path: Path) -> None:
    threads = []

    def made() -> Iterator[NDArray[np.uint8]]:
        for _ in range(3):
            threads.append({thread.name for thread in threading.enumerate()})
            yield np.zeros((4, 48, 64, 3), np.uint8)

    write_mp4(made(), 8, tmp_path / "v.mp4")
    assert len(threads[1] - threads[0]) == 1, "another thread encodes"


@pytest.mark.parametrize("fault", ["decoder", "encoder"])
def test_an_error_of_either_side_is_raised(fault: str, tmp_path: Path) -> None:
    def made() -> Iterator[NDArray[np.uint8]]:
        yield np.zeros((1, 48, 64, 3), np.uint8)
        if fault == "decoder":
            raise RuntimeError("out of memory")
        yield np.zeros((1, 48, 64, 7), np.uint8)

    with pytest.raises((RuntimeError, ValueError)):
        write_mp4(made(), 8, tmp_path / "v.mp4")


def test_single_frames_are_refused_as_pieces(tmp_path: Path) -> None:
    frames = np.zeros((2, 48, 64, 3), np.uint8)
    with pytest.raises(ValueError, match=r"must be \(frames, height, width, 3\), found \(48, 64, 3\)"):
        write_mp4(frames, 8, tmp_path / "v.mp4")
