"""The same seed gives the same frames whatever the number of ranks: on a CPU, bit for bit.

Real processes form gloo worlds of 1, 2 and 4 ranks one after the other, as a gang does when it is resized.
"""

import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from app.config import ConfigError
from app.model.pipeline import Pipeline
from app.plan import Plan
from testing.ports import free_port
from testing.rank_pool import RankPool, loaded
from tests.app.model.makers import GUIDED, UNGUIDED


def picture(color: tuple[int, int, int], size: tuple[int, int] = (100, 60)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("experts", ["tiny_model", "two_expert_model"])
def test_one_two_and_four_ranks_make_the_same_frames(
    experts: str, rank_pool: RankPool, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(experts)
    alone = [frames for frames, _, _ in rank_pool.run(folder, 1, GUIDED, UNGUIDED)[0]]
    for ranks, plans in ((4, [Plan(2, 2), Plan(1, 4)]), (2, [Plan(2, 1), Plan(1, 2)])):
        results = rank_pool.run(folder, ranks, GUIDED, UNGUIDED)
        assert [plan for _, plan, _ in results[0]] == plans
        for expected, (frames, _, _) in zip(alone, results[0], strict=True):
            assert expected is not None
            assert frames is not None
            assert np.array_equal(frames, expected)
        assert all(frames is None for rank in results[1:] for frames, _, _ in rank), "rank 0 alone decodes"


@pytest.mark.parametrize("folder", ["image_model", "text_or_image_model"])
def test_a_video_from_a_picture_is_the_same_on_one_two_and_four_ranks(
    folder: str, rank_pool: RankPool, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    red, blue = picture((255, 0, 0)), picture((0, 0, 255))
    requests: list[dict[str, Any]] = [
        GUIDED | {"picture": red},
        UNGUIDED | {"picture": red},
        GUIDED | {"picture": blue},
    ]
    alone = [np.asarray(frames) for frames, _, _ in rank_pool.run(path, 1, *requests)[0]]
    assert not np.array_equal(alone[0], alone[2]), "the picture decides"
    for ranks, plans in ((4, [Plan(2, 2), Plan(1, 4)]), (2, [Plan(2, 1), Plan(1, 2)])):
        results = rank_pool.run(path, ranks, *requests)[0]
        assert [plan for _, plan, _ in results][:2] == plans
        for expected, (frames, _, _) in zip(alone, results, strict=True):
            assert np.array_equal(np.asarray(frames), expected)


def test_a_model_for_both_begins_from_a_picture_or_from_text_alone(
    rank_pool: RankPool, text_or_image_model: Path
) -> None:
    requests: list[dict[str, Any]] = [GUIDED, GUIDED | {"picture": picture((255, 0, 0))}, GUIDED]
    text, image, again = (np.asarray(frames) for frames, _, _ in rank_pool.run(text_or_image_model, 2, *requests)[0])
    assert np.array_equal(text, again)
    assert not np.array_equal(text, image)


def _share(rank: int, port: int, folder: str, message: str) -> Any:
    pipeline = loaded(folder)
    store = dist.TCPStore("127.0.0.1", port, 2, rank == 0, timedelta(seconds=60))
    pipeline.join(store, rank, 2, timedelta(seconds=60))

    def make() -> bytes:
        if message:
            raise FileNotFoundError(message)
        return b"only rank 0 reads"

    try:
        return pipeline.share(make)
    except FileNotFoundError as error:
        return str(error)
    finally:
        pipeline.leave()


@pytest.mark.parametrize(("message", "expected"), [("", b"only rank 0 reads"), ("gone", "gone")])
def test_what_rank_0_reads_or_fails_to_read_is_the_same_on_all(
    message: str, expected: object, rank_pool: RankPool, tiny_model: Path
) -> None:
    assert rank_pool.call(2, _share, free_port(), str(tiny_model), message) == [expected, expected]


def test_both_experts_are_used(rank_pool: RankPool, two_expert_model: Path) -> None:
    same, other = rank_pool.run(two_expert_model, 1, {"guidance_scale_2": 4.0}, {"guidance_scale_2": 9.0})[0]
    assert not np.array_equal(np.asarray(same[0]), np.asarray(other[0]))


@pytest.mark.parametrize("folder", ["tiny_model", "text_or_image_model"])
def test_tokens_that_do_not_divide_are_split_unevenly(
    folder: str, rank_pool: RankPool, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    # Three latent frames of 3 x 5 tokens divide over neither 2 nor 4 ranks; one of 1 x 3 is too short for 4.
    odd = {"width": 80, "height": 48, "num_frames": 9, "guidance_scale": 1.0}
    short = {"width": 48, "height": 16, "num_frames": 1, "guidance_scale": 1.0}
    alone = [np.asarray(frames) for frames, _, _ in rank_pool.run(path, 1, odd, short)[0]]
    for ranks, plans in (
        (2, [Plan(1, 2, lengths=(23, 22)), Plan(1, 2, lengths=(2, 1))]),
        (4, [Plan(1, 4, lengths=(12, 11, 11, 11)), Plan(1, 2, 2, lengths=(2, 1))]),
    ):
        results = rank_pool.run(path, ranks, odd, short)[0]
        assert [plan for _, plan, _ in results] == plans
        for expected, (frames, _, _) in zip(alone, results, strict=True):
            assert np.array_equal(np.asarray(frames), expected)


def test_the_seed_and_the_prompt_decide(rank_pool: RankPool, tiny_model: Path) -> None:
    results = rank_pool.run(tiny_model, 1, {"seed": 1}, {"seed": 1}, {"seed": 2}, {"seed": 1, "prompt": "blue"})[0]
    one, again, other_seed, other_prompt = (np.asarray(frames) for frames, _, _ in results)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other_seed)
    assert not np.array_equal(one, other_prompt)


def test_all_ranks_stop_at_the_step_at_which_rank_0_says_so(rank_pool: RankPool, tiny_model: Path) -> None:
    results = rank_pool.run(tiny_model, 2, {"num_inference_steps": 10}, stop_at=3)
    assert [steps for ((_, _, steps),) in results] == [[1, 2, 3], [1, 2, 3]]
    assert [frames for ((frames, _, _),) in results] == [None, None]


def _break(folder: Path, tmp_path: Path, damage: Callable[[Path], None]) -> str:
    import shutil

    copy = tmp_path / "broken"
    shutil.copytree(folder, copy)
    damage(copy)
    return str(copy)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "vae/diffusion_pytorch_model.safetensors").unlink(),
        lambda folder: (folder / "transformer/diffusion_pytorch_model.safetensors").write_bytes(b"cut off"),
        lambda folder: (folder / "tokenizer/tokenizer.json").write_text("{"),
    ],
)
def test_a_damaged_folder_is_told_in_one_line(damage: Callable[[Path], None], tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"MODEL_PATH: .*broken.* (does not load as a diffusers pipeline|is no complete safetensors file): ",
    ) as caught:
        Pipeline(_break(tiny_model, tmp_path, damage), torch.device("cpu"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_flow_shift_holds_for_its_request_alone(rank_pool: RankPool, tiny_model: Path) -> None:
    ((first, _, _), (shifted, _, _), (after, _, _)), *_ = rank_pool.run(tiny_model, 2, {}, {"flow_shift": 8.0}, {})
    assert first is not None
    assert shifted is not None
    assert not np.array_equal(first, shifted)
    assert np.array_equal(first, np.asarray(after))
