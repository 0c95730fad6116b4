"""The bodies of OpenAI's Videos API, and how ``seconds`` and ``size`` become frames and pixels of a GenerateRequest.

The rule: a video's duration is ``(num_frames - 1) / fps``, since its first frame stands at second 0. The nearest number
of frames and the nearest sides that the model has are taken if each differs by at most 5 % from what was asked for;
otherwise the request is refused with what is near. The task shows what was taken.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from app.http.generate_request import MAX_FRAMES, Body, GenerateRequest, InvalidRequestError, Prompt
from app.media import images
from app.model.folder import ModelFolder
from app.tasks.task_config import TaskConfig

MOST_DEVIATION = 0.05
"""Of ``seconds``, and of each side of ``size``."""
_SIZE = re.compile(r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$")
_TRANSLATED = {"num_frames": "seconds", "width": "size", "height": "size"}
"""Fields of a GenerateRequest, and the field of a VideoRequest that can stand for each."""


def _bytes_of_reference(value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) != {"image_url"} or not isinstance(value["image_url"], str):
            raise images.InvalidImageError(
                f'found an object with {", ".join(map(str, value)) or "nothing"}; allowed is {{"image_url": '
                f'"data:image/png;base64,..."}}, or a file in multipart/form-data: {images.ALLOWED}'
            )
        value = value["image_url"]
    return images.decode_base64(value) if isinstance(value, str) else value


def _width_and_height(size: str) -> str:
    if not _SIZE.fullmatch(size):
        raise ValueError("send WIDTHxHEIGHT in pixels, such as 1280x720")
    return size


class VideoRequest(GenerateRequest):
    """The body of ``POST /v1/videos``: OpenAI's fields, and those of ``POST /generate`` besides."""

    image_fields = frozenset({"image", "input_reference"})

    prompt: Prompt = Field()
    model: str | None = Field(None, max_length=300, description="The served model, as GET /v1/models names it.")
    size: Annotated[str, AfterValidator(_width_and_height)] | None = Field(
        None,
        json_schema_extra={"pattern": _SIZE.pattern},
        description="WIDTHxHEIGHT in pixels. Each side becomes the nearest that the model has, at most 5 % away.",
    )
    seconds: float | None = Field(
        None,
        gt=0,
        le=MAX_FRAMES,
        allow_inf_nan=False,
        description="Duration. It becomes the nearest number of frames that the model has, at most 5 % away.",
    )
    input_reference: Annotated[bytes, BeforeValidator(_bytes_of_reference)] | None = Field(
        None,
        description='The picture from which the video begins: a file in multipart/form-data, or in JSON {"image_url": '
        f'"data:image/png;base64,..."}}. Allowed is {images.ALLOWED}.',
        json_schema_extra={"format": "byte"},
    )

    def translated(self, model: ModelFolder) -> GenerateRequest:
        """Return the same request with the fields of ``POST /generate``.

        Raises:
            InvalidRequestError: a field has no near counterpart, stands beside one that says the same, or names
                another model.
        """
        if self.model is not None and self.model != model.name:
            raise InvalidRequestError(
                "model",
                f"The served model is {model.name!r} (found {self.model!r}); send this name or leave the field out",
            )
        given = self.model_dump(exclude_unset=True, include=set(GenerateRequest.model_fields))
        if self.seconds is not None:
            self._check_alone("seconds", "num_frames")
            given["num_frames"] = _frames(self.seconds, self.fps or model.defaults.fps, model.temporal_scale)
        if self.size is not None:
            self._check_alone("size", "width", "height")
            given["width"], given["height"] = _sides(self.size, model.side_multiple)
        if self.input_reference is not None:
            self._check_alone("input_reference", "image")
            given["image"] = self.input_reference
        try:
            return _request(given)
        except InvalidRequestError as error:
            raise self.in_its_words(error) from None

    def in_its_words(self, error: InvalidRequestError) -> InvalidRequestError:
        """Return an error about a field of the translated request as one about the field that this request has."""
        if error.field == "image" and self.input_reference is not None:
            return InvalidRequestError("input_reference", error.message)
        field = _TRANSLATED.get(error.field)
        if field is None or getattr(self, field) is None:
            return error
        return InvalidRequestError(field, f"As {error.field}: {error.message}")

    def _check_alone(self, field: str, *others: str) -> None:
        for other in others:
            if getattr(self, other) is not None:
                raise InvalidRequestError(field, f"This field and {other} say the same; send one of them")


class RemixRequest(Body):
    """The body of ``POST /v1/videos/{video_id}/remix``."""

    prompt: Prompt = Field()

    def applied(self, config: TaskConfig, image: bytes | None, model: ModelFolder) -> GenerateRequest:
        """Return the request of the task ``config`` with this prompt: seed, size, frames and image stay.

        Fields that the served model does not have are left out; the task may have run on another one.

        Raises:
            InvalidRequestError: another release accepted the task, and a field is out of the bounds of this one.
        """
        fields = config.model_dump(include=set(GenerateRequest.model_fields) - {"image"}, exclude_none=True)
        if not model.two_experts:
            fields.pop("guidance_scale_2", None)
        if not model.takes_flow_shift:
            fields.pop("flow_shift", None)
        return _request(fields | {"prompt": self.prompt} | ({"image": image} if image is not None else {}))


def _request(fields: dict[str, Any]) -> GenerateRequest:
    try:
        return GenerateRequest.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequestError(str(first["loc"][0]), f"{first['msg']} (found {first['input']})") from None


def seconds_text(num_frames: int, fps: int) -> str:
    """Return the duration of a video as the text that ``seconds`` takes."""
    return f"{(num_frames - 1) / fps:.3f}".rstrip("0").rstrip(".")


def _frames(seconds: float, fps: int, group: int) -> int:
    """Return the number of frames, 1 more than a multiple of ``group``, whose duration is nearest to ``seconds``."""
    groups = max(1, math.floor(seconds * fps / group + 0.5))
    if abs(groups * group / fps - seconds) > MOST_DEVIATION * seconds:
        low = math.floor(seconds * fps / group)
        near = " and ".join(
            f"{seconds_text(one * group + 1, fps)} ({one * group + 1} frames)" for one in (low, low + 1) if one
        )
        raise InvalidRequestError(
            "seconds",
            f"At {fps} frames per second, no video of this model, which has {group}k+1 frames, lasts {seconds:g} s "
            f"within 5 % (nearest: {near}); send one of these, another fps, or num_frames instead",
        )
    return groups * group + 1


def _sides(size: str, multiple: int) -> tuple[int, int]:
    """Return the nearest sides that ``multiple`` divides; of two that are equally near, the smaller one."""
    asked = [int(side) for side in size.split("x")]
    taken = [max(multiple, -(-(2 * side - multiple) // (2 * multiple)) * multiple) for side in asked]
    if any(abs(one - side) > MOST_DEVIATION * side for one, side in zip(taken, asked, strict=True)):
        low = [max(multiple, side // multiple * multiple) for side in asked]
        high = [-(-side // multiple) * multiple for side in asked]
        near = " and ".join(dict.fromkeys(f"{width}x{height}" for width, height in (low, high)))
        raise InvalidRequestError(
            "size",
            f"No video of this model, whose sides are multiples of {multiple}, has this size within 5 % a side (found "
            f"{size}; nearest: {near}); send one of these",
        )
    return taken[0], taken[1]
