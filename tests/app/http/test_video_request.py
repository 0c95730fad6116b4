"""How OpenAI's fields become those of a GenerateRequest, and which are refused."""

from pathlib import Path
from typing import Any

import pytest

from app.http.generate_request import InvalidRequestError
from app.http.video_request import RemixRequest, VideoRequest, seconds_text
from app.model.folder import ModelFolder
from app.model.hub_configs import built_in
from testing.records import task_config


def published(name: str) -> ModelFolder:
    model = built_in(f"Wan-AI/Wan2.2-{name}-Diffusers")
    assert model is not None
    return model


A14B = published("T2V-A14B")
TI2V = published("TI2V-5B")


def translated(served: ModelFolder, /, **fields: Any) -> dict[str, Any]:
    return VideoRequest(prompt="a", **fields).translated(served).model_dump(exclude_unset=True, exclude={"prompt"})


def refusal(served: ModelFolder, /, **fields: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as raised:
        translated(served, **fields)
    return raised.value


@pytest.mark.parametrize(
    ("model", "seconds", "fps", "frames", "shown"),
    [
        (A14B, "4", None, 65, "4"),
        (A14B, "5", None, 81, "5"),
        (A14B, 12, None, 193, "12"),
        (TI2V, "4", None, 97, "4"),
        (TI2V, "5", None, 121, "5"),
        (A14B, 2.6, None, 41, "2.5"),  # 4 % less.
        (A14B, "4", 24, 97, "4"),
        (A14B, 5, 7, 37, "5.143"),
        (A14B, 0.25, None, 5, "0.25"),
    ],
)
def test_seconds_become_the_nearest_frames(
    model: ModelFolder, seconds: Any, fps: int | None, frames: int, shown: str
) -> None:
    given = {"fps": fps} if fps else {}
    assert translated(model, seconds=seconds, **given) == {"num_frames": frames} | given
    assert seconds_text(frames, fps or model.defaults.fps) == shown


@pytest.mark.parametrize(
    ("fields", "near"),
    [
        ({"seconds": 0.3}, "0.25 (5 frames) and 0.5 (9 frames)"),
        ({"seconds": 0.01}, "0.25 (5 frames)"),
        ({"seconds": 3, "fps": 5}, "2.4 (13 frames) and 3.2 (17 frames)"),
    ],
)
def test_a_duration_that_no_video_comes_near_is_refused(fields: dict[str, Any], near: str) -> None:
    error = refusal(A14B, **fields)
    assert error.field == "seconds"
    assert f"(nearest: {near})" in error.message


@pytest.mark.parametrize(
    ("model", "size", "sides"),
    [
        (A14B, "1280x720", (1280, 720)),
        (A14B, "720x1280", (720, 1280)),
        (A14B, "1792x1024", (1792, 1024)),
        (TI2V, "1280x720", (1280, 704)),  # 2.2 % less; 736 is equally near.
        (TI2V, "1280x704", (1280, 704)),
        (A14B, "854x480", (848, 480)),
        (A14B, "1920x1080", (1920, 1072)),  # 1088 is equally near.
    ],
)
def test_a_size_becomes_the_nearest_sides(model: ModelFolder, size: str, sides: tuple[int, int]) -> None:
    assert translated(model, size=size) == {"width": sides[0], "height": sides[1]}


@pytest.mark.parametrize(
    ("size", "near"),
    [("24x720", "16x720 and 32x720"), ("8x8", "16x16"), ("100x150", "96x144 and 112x160")],
)
def test_a_size_that_no_video_comes_near_is_refused(size: str, near: str) -> None:
    model = TI2V if size == "100x150" else A14B
    near = "96x128 and 128x160" if model is TI2V else near
    error = refusal(model, size=size)
    assert error.field == "size"
    assert f"nearest: {near})" in error.message


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"seconds": 4, "num_frames": 65}, "seconds", "This field and num_frames say the same"),
        ({"size": "64x64", "height": 64}, "size", "This field and height say the same"),
        ({"input_reference": b"a", "image": b"a"}, "input_reference", "This field and image say the same"),
        ({"model": "sora-2"}, "model", "The served model is 'Wan2.2-T2V-A14B-Diffusers' (found 'sora-2')"),
        ({"seconds": 100}, "seconds", "As num_frames: Input should be less than or equal to 1025 (found 1601)"),
        ({"size": "8000x720"}, "size", "As width: Input should be less than or equal to 4096 (found 8000)"),
    ],
)
def test_fields_that_cannot_be_translated_are_refused_by_name(fields: dict[str, Any], field: str, message: str) -> None:
    error = refusal(A14B, **fields)
    assert error.field == field
    assert message in error.message


def test_a_later_refusal_names_the_field_that_was_sent() -> None:
    request = VideoRequest(prompt="a", size="64x64", num_frames=9)
    assert request.in_its_words(InvalidRequestError("height", "too long")).message == "As height: too long"
    assert request.in_its_words(InvalidRequestError("num_frames", "too many")).field == "num_frames"
    assert request.in_its_words(InvalidRequestError("fps", "too fast")).field == "fps"


def test_our_own_fields_stay() -> None:
    fields = {"seed": 7, "task_id": "mine", "num_inference_steps": 3, "width": 64, "height": 32, "image": b"a"}
    assert translated(A14B, **fields) == fields
    assert translated(A14B, input_reference=b"a") == {"image": b"a"}
    assert translated(A14B, model="Wan2.2-T2V-A14B-Diffusers") == {}


def test_a_remix_changes_the_prompt_alone(tiny_model: Path, two_expert_model: Path) -> None:
    model, two_experts = (ModelFolder.read(str(path)) for path in (tiny_model, two_expert_model))
    config = task_config(seed=5, flow_shift=2.0, guidance_scale_2=3.0, negative_prompt="c")
    again = RemixRequest(prompt="b").applied(config, b"picture", two_experts)
    assert again.image == b"picture"
    assert again.model_dump(exclude={"image", "task_id"}) == config.model_dump(exclude={"image"}) | {"prompt": "b"}
    assert RemixRequest(prompt="b").applied(config, None, model).complete(model).guidance_scale_2 is None
    with pytest.raises(InvalidRequestError, match="num_frames: Input should be less than or equal to 1025"):
        RemixRequest(prompt="b").applied(task_config(num_frames=4001), None, model)
