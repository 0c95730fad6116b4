"""The mp4 has the frames, the size and the rate that were asked for, and its picture is right."""

import threading
from collections.abc import Iterator
from pathlib import Path

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
