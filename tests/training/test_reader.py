"""The reader names what a drawn clip shows, and refuses to name what it does not."""

import inspect
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from training import reader, videos
from training.clips import draw
from training.reader import Frames, read
from training.scenes import COLOURS, MOTIONS, SHAPES, Scene


def clip(scene: Scene, seed: int = 0) -> Frames:
    drawn = draw([scene], frames=17, size=128, generator=torch.Generator().manual_seed(seed))[0]
    frames: Frames = ((drawn + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return frames


def shown(frames: Frames) -> Scene:
    reading = read(frames)
    return Scene(reading.shape, reading.colour, reading.ground, reading.motion)


# A turning circle looks like a still one.
@pytest.mark.parametrize(
    ("shape", "motion"), [pair for pair in product(SHAPES, MOTIONS) if pair != ("circle", "turning")]
)
def test_every_shape_is_read_in_every_motion(shape: str, motion: str) -> None:
    scene = Scene(shape, "red", "blue", motion)
    assert [shown(clip(scene, seed)) for seed in range(3)] == [scene] * 3


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_is_read_on_every_ground(colour: str) -> None:
    scenes = [Scene("triangle", colour, ground, "left") for ground in COLOURS if ground != colour]
    assert [shown(clip(scene)) for scene in scenes] == scenes


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_clip_reads_the_same_after_mp4(motion: str, tmp_path: Path) -> None:
    scene = Scene("square", "orange", "purple", motion)
    videos.write_file(tmp_path / "clip.mp4", clip(scene), fps=8)
    assert shown(videos.read_file(tmp_path / "clip.mp4")) == scene


def test_an_empty_picture_shows_no_shape_and_no_motion() -> None:
    frames = np.full((17, 64, 64, 3), COLOURS["green"], np.uint8)
    assert shown(frames) == Scene(reader.UNCLEAR, reader.UNCLEAR, "green", reader.UNCLEAR)


def test_noise_is_no_shape() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (17, 64, 64, 3), dtype=np.uint8)
    assert read(frames).shape == reader.UNCLEAR


def test_a_clip_that_stops_moving_is_still() -> None:
    frames = clip(Scene("circle", "white", "black", "up"))
    assert read(np.repeat(frames[:1], 17, axis=0)).motion == "still"


def test_a_shape_that_jumps_to_and_fro_has_no_motion() -> None:
    frames = clip(Scene("circle", "white", "black", "right"))
    assert read(frames[[0, 16] * 8 + [16]]).motion not in ("left", "right", "up", "down")


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="5 or more"):
        read(np.zeros((4, 64, 64, 3), np.uint8))


def test_the_reader_is_given_frames_and_nothing_else() -> None:
    assert list(inspect.signature(read).parameters) == ["frames"]
    assert "prompts" not in inspect.getsource(reader)
