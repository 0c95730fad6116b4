"""The loop makes the videos of diffusers' own pipelines bit for bit, and goes on from any of its steps in other
processes, on another number of ranks, with the same video.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline, FlowMatchLCMScheduler, WanImageToVideoPipeline

from app.config import ModelOptions
from app.media.images import fitted
from app.model.denoise import State, StepCache, Trend
from app.model.pipeline import Pipeline
from app.tasks.task_config import TaskConfig
from testing.ports import free_port
from testing.rank_pool import RankPool
from tests.app.media.pictures import encoded
from tests.app.model.makers import CACHED, GUIDED, SCENE, UNGUIDED, Frames
from training.generation import use_step_cache

STEPS = 10
SOON_CACHED = CACHED | {"step_cache_warm_up": 2}


@contextmanager
def joined(folder: Path | str, options: dict[str, Any], rank: int = 0, ranks: int = 1, port: int = 0) -> Iterator[Any]:
    """Yield a pipeline in a process group."""
    torch.set_num_threads(1)
    pipeline = Pipeline(str(folder), torch.device("cpu"), ModelOptions.model_validate(options), ranks)
    store = dist.TCPStore("127.0.0.1", port or free_port(), ranks, rank == 0, timedelta(seconds=60))
    pipeline.join(store, rank, ranks, timedelta(seconds=60))
    try:
        yield pipeline
    finally:
        pipeline.leave()


def by_diffusers(folder: Path, config: TaskConfig, picture: bytes | None, options: dict[str, Any]) -> Frames:
    """Make the video by one call of diffusers' pipeline."""
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    arguments = config.model_dump(
        include={"prompt", "negative_prompt", "width", "height", "num_frames", "num_inference_steps", "guidance_scale"}
    )
    if pipeline.config.boundary_ratio is not None:
        arguments["guidance_scale_2"] = config.guidance_scale_2
    if picture is not None:
        if not isinstance(pipeline, WanImageToVideoPipeline):
            pipeline = WanImageToVideoPipeline(**pipeline.components, expand_timesteps=True)
        arguments["image"] = fitted(picture, config.width, config.height)
    pipeline.set_progress_bar_config(disable=True)
    use_step_cache(
        ModelOptions.model_validate(options), [one for one in (pipeline.transformer, pipeline.transformer_2) if one]
    )
    torch.set_num_threads(1)
    frames = pipeline(**arguments, generator=torch.Generator("cpu").manual_seed(config.seed)).frames[0]
    return np.asarray((frames * 255).round().astype(np.uint8))


@pytest.mark.parametrize("guidance", [GUIDED, UNGUIDED], ids=["guided", "unguided"])
@pytest.mark.parametrize(
    ("folder", "picture"),
    [
        ("tiny_model", False),
        ("two_expert_model", False),
        ("image_model", True),
        ("text_or_image_model", False),
        ("text_or_image_model", True),
    ],
    ids=["text", "text, two experts", "image, two experts", "either, from text", "either, from an image"],
)
def test_the_frames_are_those_of_diffusers(
    folder: str, picture: bool, guidance: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(folder)
    image = encoded("PNG", color="red") if picture else None
    with joined(path, {}) as pipeline:
        changes: dict[str, Any] = SCENE | guidance | {"num_inference_steps": STEPS}
        if pipeline.model.two_experts and guidance == GUIDED:
            changes["guidance_scale_2"] = 6.0
        config = pipeline.model.default_task(**changes)
        frames = pipeline.generate(config, lambda _: True, image)
    assert np.array_equal(frames, by_diffusers(path, config, image, {}))


@pytest.mark.parametrize("options", [SOON_CACHED, CACHED | {"step_cache_interval": 2, "step_cache_warm_up": 3}])
@pytest.mark.parametrize("folder", ["tiny_model", "two_expert_model"])
def test_the_step_cache_is_the_lite_mode_of_diffusers(
    folder: str, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(folder)
    with joined(path, options) as pipeline:
        config = pipeline.model.default_task(**SCENE | GUIDED | {"num_inference_steps": 14})
        frames = pipeline.generate(config, lambda _: True)
    assert np.array_equal(frames, by_diffusers(path, config, None, options))
    assert not np.array_equal(frames, by_diffusers(path, config, None, {})), "the cache predicted something"


def test_which_steps_are_computed_follows_from_their_number() -> None:
    computed = [step for step in range(16) if StepCache(interval=3, warm_up=6).computes(step)]
    assert computed == [0, 1, 2, 3, 4, 5, 7, 10, 13]


def _resumed(
    rank: int, ranks: int, port: int, folder: str, options: dict[str, Any], config: TaskConfig, picture: bytes | None,
    file: Path,
) -> tuple[list[Frames | None], list[State]]:  # fmt: skip
    """Go on from each of the states in ``file``; return the videos, and the states after each one's next step."""
    with torch.serialization.safe_globals([State, Trend]):
        states: list[State] = torch.load(file, weights_only=True)
    frames: list[Frames | None] = []
    after: list[State] = []
    with joined(folder, options, rank, ranks, port) as pipeline:
        for state in states[:-1]:
            found: list[State] = []

            def keep(_: int, found: list[State] = found) -> bool:
                found.append(pipeline.state())
                return True

            pieces = pipeline.stream(config, keep, picture, resume=state)
            frames.append(None if pieces is None else np.concatenate(list(pieces)))
            after.append(found[0])
    return frames, after


@pytest.fixture(scope="module")
def model_that_draws_noise(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose scheduler draws new noise in each step, as those of few-step models do."""
    folder = tmp_path_factory.mktemp("models") / "draws-noise"
    shutil.copytree(tiny_model, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchLCMScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index))
    FlowMatchLCMScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    return folder


@pytest.mark.parametrize(
    ("folder", "options", "picture"),
    [
        ("tiny_model", {}, False),
        ("tiny_model", SOON_CACHED, False),
        ("two_expert_model", {}, False),
        ("two_expert_model", SOON_CACHED, False),
        ("image_model", {}, True),
        ("text_or_image_model", SOON_CACHED, True),
        ("model_that_draws_noise", {}, False),
    ],
)
def test_a_video_goes_on_from_each_of_its_steps_in_other_processes_on_more_ranks(
    folder: str,
    options: dict[str, Any],
    picture: bool,
    rank_pool: RankPool,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    path: Path = request.getfixturevalue(folder)
    image = encoded("PNG", color="red") if picture else None
    states: list[State] = []

    def keep(step: int) -> bool:
        states.append(pipeline.state())
        return True

    with joined(path, options) as pipeline:
        config = pipeline.model.default_task(**SCENE | GUIDED | {"num_inference_steps": STEPS})
        frames = pipeline.generate(config, keep, image)
    assert [state.step for state in states] == list(range(1, STEPS + 1))
    # All of them at the end: no step writes into the state of an earlier one.
    torch.save(states, tmp_path / "states")
    (videos, after), (none, second) = rank_pool.call(
        2, _resumed, 2, free_port(), str(path), options, config, image, tmp_path / "states"
    )
    for step, video in enumerate(videos, 1):
        assert np.array_equal(np.asarray(video), frames), f"resumed after step {step}"
    assert none == [None] * (STEPS - 1)
    for wanted, *found in zip(states[1:], after, second, strict=True):
        for state in found:
            assert _plain(state) == _plain(wanted), "each rank has all of it, whatever the plan"


def _plain(value: Any) -> Any:
    """Return ``value`` with lists of numbers in place of tensors, so that it can be compared."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (State, Trend)):
        return _plain(vars(value))
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def test_there_is_a_state_only_while_a_video_is_denoised(tiny_model: Path) -> None:
    with joined(tiny_model, {}) as pipeline:
        pipeline.generate(pipeline.model.default_task(**SCENE), lambda _: True)
        with pytest.raises(RuntimeError, match="no request is being denoised"):
            pipeline.state()
