"""Requests: bounds, the model's own limits, and defaults for what is left out."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from app.config import AppArgs
from app.http.generate_request import GenerateRequest, InvalidRequestError
from app.model.folder import ModelFolder
from app.model.hub_configs import built_in
from app.runtime import local_model
from app.tasks.task_config import TaskImage


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> ModelFolder:
    return ModelFolder.read(str(tiny_model))


def test_a_bare_task_id_gets_the_models_defaults(model: ModelFolder) -> None:
    config = GenerateRequest(task_id="test123").complete(model)
    assert (config.width, config.num_frames, config.num_inference_steps) == (64, 9, 4)


def test_a_seed_that_was_left_out_is_exact_in_every_reader_of_json(model: ModelFolder) -> None:
    seeds = {GenerateRequest().complete(model).seed for _ in range(50)}
    assert len(seeds) == 50
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert GenerateRequest(seed=2**63 - 1).complete(model).seed == 2**63 - 1


def test_what_the_client_said_is_kept_apart_from_what_was_filled_in(model: ModelFolder) -> None:
    assert GenerateRequest(task_id="a", fps=4).body() == {"fps": 4}


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 100},
        {"height": 0},
        {"num_frames": 0},
        {"num_inference_steps": 201},
        {"guidance_scale": float("nan")},
        {"seed": -1},
        {"fps": 0},
        {"flow_shift": 0},
        {"flow_shift": 101},
        {"flow_shift": float("inf")},
        {"prompt": "x" * 8001},
        {"task_id": "../etc/passwd"},
        {"task_id": ""},
        {"task_id": "x" * 129},
        {"task_id": "a/b"},
        {"unknown": 1},
    ],
)
def test_a_field_out_of_bounds_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerateRequest.model_validate(fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


def test_at_least_fifty_steps_are_allowed(model: ModelFolder) -> None:
    assert GenerateRequest(num_inference_steps=50).complete(model).num_inference_steps == 50


def test_a_wrong_number_of_frames_is_refused_with_the_nearest_allowed_ones(model: ModelFolder) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"num_frames: Input should be 4k\+1 \(found 16; nearest: 13 and 17\)"
    ):
        GenerateRequest(num_frames=16).complete(model)


def test_guidance_of_a_second_expert_needs_one(model: ModelFolder, two_expert_model: Path) -> None:
    with pytest.raises(InvalidRequestError, match="guidance_scale_2: This model has no second expert"):
        GenerateRequest(guidance_scale_2=3.0).complete(model)
    other = ModelFolder.read(str(two_expert_model))
    assert GenerateRequest(guidance_scale_2=3.0).complete(other).guidance_scale_2 == 3.0


def test_dots_alone_are_no_way_out_of_the_storage() -> None:
    with pytest.raises(ValidationError):
        GenerateRequest(task_id="..")


@pytest.mark.parametrize(
    ("hub_id", "proportions", "found", "allowed"),
    [
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", (1, 20000), "32x134240", "4096x4096"),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", (2000, 100), "4224x192", "4096x4096"),
        ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", (20000, 1), "135760x16", "4096x4096"),
    ],
)
def test_a_picture_that_gives_too_long_a_side_is_refused(
    hub_id: str, proportions: tuple[int, int], found: str, allowed: str
) -> None:
    model = built_in(hub_id)
    assert model is not None
    width, height = proportions
    with pytest.raises(InvalidRequestError) as caught:
        GenerateRequest().complete(model, picture(width, height))
    assert caught.value.field == "image"
    for part in (f"{width}x{height}", f"video of {found} pixels", f"at most {allowed}", "send width and height"):
        assert part in caught.value.message
    config = GenerateRequest(width=704, height=704).complete(model, picture(width, height))
    assert (config.width, config.height) == (704, 704)


def picture(width: int, height: int) -> TaskImage:
    return TaskImage(sha256="", format="PNG", width=width, height=height, bytes=1, path="a/b.image")


@pytest.mark.parametrize(
    ("fields", "wrong", "most"),
    [
        ({"width": 1536, "height": 1040}, "width", 1024),
        ({"height": 1040}, "height", 1024),
        ({"num_frames": 257}, "num_frames", 253),
    ],
)
def test_more_than_the_model_has_positions_for_is_refused(
    model: ModelFolder, fields: dict[str, int], wrong: str, most: int
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        GenerateRequest.model_validate(fields).complete(model)
    assert caught.value.field == wrong
    assert f"at most {most} for this model" in caught.value.message
    assert f"(found {fields[wrong]})" in caught.value.message
    assert getattr(GenerateRequest.model_validate({wrong: most}).complete(model), wrong) == most


@pytest.mark.parametrize(
    ("fields", "wrong", "cost"),
    [
        ({"num_inference_steps": 200}, "num_inference_steps", "50.0"),
        ({"width": 1024, "height": 1024}, "width", "256.0"),
        ({"width": 128, "height": 512}, "height", "16.0"),
        ({"num_frames": 253}, "num_frames", "21.3"),
    ],
)
def test_more_work_than_is_allowed_is_refused(
    model: ModelFolder, fields: dict[str, int], wrong: str, cost: str
) -> None:
    request = GenerateRequest.model_validate(fields)
    with pytest.raises(InvalidRequestError) as caught:
        request.complete(model, max_cost=float(cost) - 1)
    assert caught.value.field == wrong
    for part in (f"it has {cost} times", "default video (64x64 pixels, 9 frames and 4 steps)", str(fields[wrong])):
        assert part in caught.value.message
    request.complete(model, max_cost=float(cost) + 1)


def test_a_picture_counts_by_the_size_that_it_gives(text_or_image_model: Path) -> None:
    model = ModelFolder.read(str(text_or_image_model))
    with pytest.raises(InvalidRequestError, match=r"it has 1\.9 times .*found 16x480 pixels"):
        GenerateRequest().complete(model, picture(16, 900), max_cost=1.5)
    GenerateRequest().complete(model, picture(64, 64), max_cost=1.5)


@pytest.mark.parametrize("hub_id", ["Wan-AI/Wan2.2-T2V-A14B-Diffusers", "Wan-AI/Wan2.2-TI2V-5B-Diffusers"])
def test_the_largest_legal_request_is_refused_by_default(hub_id: str) -> None:
    model = built_in(hub_id)
    assert model is not None
    largest = GenerateRequest(width=4096, height=4096, num_frames=1025, num_inference_steps=200)
    with pytest.raises(InvalidRequestError, match=r"at most 100 times \(max_request_cost\)"):
        largest.complete(model, max_cost=AppArgs().max_request_cost)
    GenerateRequest().complete(model, max_cost=1)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"guidance_scale_2": 9.0}, "guidance_scale_2"),
        ({"negative_prompt": "blurry"}, "negative_prompt"),
        ({"negative_prompt": "blurry", "guidance_scale_2": 9.0}, "negative_prompt"),
    ],
)
def test_what_has_no_effect_without_guidance_is_refused(
    two_expert_model: Path, fields: dict[str, Any], wrong: str
) -> None:
    model = ModelFolder.read(str(two_expert_model))
    for scale in (0, 1.0):
        with pytest.raises(InvalidRequestError, match=f"^{wrong}: This field has no effect, since guidance_scale is"):
            GenerateRequest(guidance_scale=scale, **fields).complete(model)
    assert GenerateRequest(guidance_scale=1.1, **fields).complete(model).guided


def test_a_task_without_guidance_shows_no_default_that_has_no_effect(two_expert_model: Path) -> None:
    model = ModelFolder.read(str(two_expert_model))
    model = replace(model, defaults=model.defaults.model_copy(update={"guidance_scale_2": 3, "negative_prompt": "x"}))
    config = GenerateRequest(guidance_scale=1).complete(model)
    assert (config.guidance_scale, config.guidance_scale_2, config.negative_prompt) == (1, None, "")
    GenerateRequest(guidance_scale=1, guidance_scale_2=1, negative_prompt="").complete(model)


def test_a_flow_shift_that_is_left_out_is_the_schedulers_own(tiny_model: Path) -> None:
    model = ModelFolder.read(str(tiny_model))
    assert GenerateRequest().complete(model).flow_shift == 3.0
    assert GenerateRequest(flow_shift=7.5).complete(model).flow_shift == 7.5


def test_a_scheduler_without_a_flow_shift_refuses_it_by_name(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "wan22.json").unlink()
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EulerDiscreteScheduler"}')
    model = ModelFolder.read(str(folder))
    with pytest.raises(InvalidRequestError, match=r"flow_shift: The scheduler .* has no flow shift \(found 5\)"):
        GenerateRequest(flow_shift=5, width=64, height=64, num_frames=9).complete(model)
    assert GenerateRequest(width=64, height=64, num_frames=9).complete(model).flow_shift is None


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("words", ["red circle ", "红色圆形 "])
def test_a_prompt_that_the_text_encoder_would_cut_is_refused_with_its_tokens(field: str, words: str) -> None:
    model = ModelFolder.read(str(local_model()))
    tokenizer = AutoTokenizer.from_pretrained(model.path / "tokenizer")
    long = words * 700
    count = len(tokenizer(long.strip()).input_ids)
    assert count > 512
    with pytest.raises(InvalidRequestError, match=f"{count} tokens.*512 at most") as refusal:
        GenerateRequest(**{field: long}, guidance_scale=3).complete(model)
    assert refusal.value.field == field


def test_a_prompt_of_as_many_tokens_as_the_text_encoder_reads_is_taken() -> None:
    model = ModelFolder.read(str(local_model()))
    # One more token is for the end.
    for prompt in ("red " * 511, "red&#32;\n\t " * 511):
        assert GenerateRequest(prompt=prompt).complete(model).prompt == prompt
    with pytest.raises(InvalidRequestError, match="513 tokens"):
        GenerateRequest(prompt="red " * 512).complete(model)


def test_without_a_tokenizer_no_tokens_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model/tokenizer/tokenizer.json").unlink()
    model = ModelFolder.read(str(tmp_path / "model"))
    assert GenerateRequest(prompt="red " * 600).complete(model).prompt == "red " * 600
