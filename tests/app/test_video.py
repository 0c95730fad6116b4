"""The mp4 has the frames, the size and the rate that were asked for, and its picture is right."""

from pathlib import Path

import av
import numpy as np
import pytest

from app.video import read_mp4, write_mp4


@pytest.mark.parametrize(("frames", "fps"), [(1, 16), (9, 8), (17, 24)])
def test_frames_size_and_rate(frames: int, fps: int, tmp_path: Path) -> None:
    write_mp4(np.zeros((frames, 48, 64, 3), np.uint8), fps, tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.frames, stream.width, stream.height) == ("h264", frames, 64, 48)
        assert stream.average_rate == fps


def test_a_picture_comes_back_in_its_colours(tmp_path: Path) -> None:
    frames = np.zeros((5, 64, 64, 3), np.uint8)
    frames[:, :, :32] = (220, 30, 40)
    frames[:, :, 32:] = (20, 60, 200)
    write_mp4(frames, 8, tmp_path / "v.mp4")
    assert np.abs(read_mp4(tmp_path / "v.mp4").astype(int) - frames)[:, :, [8, 56]].max() < 12


def test_equal_frames_make_equal_files(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_mp4(frames, 8, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
