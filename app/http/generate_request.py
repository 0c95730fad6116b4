"""The fields of a request, their bounds, and how the model's defaults complete them into a task config."""

import math
import secrets
import textwrap
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from app.media import images
from app.model.folder import ModelFolder
from app.model.prompt_tokens import MAX_PROMPT_TOKENS, too_many_tokens
from app.tasks.task_config import TaskConfig, TaskImage

TASK_ID_PATTERN = r"^[A-Za-z0-9._-]{1,128}$"
MAX_PROMPT_CHARACTERS = 8000
MAX_SIDE = 4096
MAX_FRAMES = 1025
MAX_STEPS = 200
MAX_EXACT_SEED = 2**53
"""Seeds below it are exact in programs that read JSON's numbers as 64-bit floats, such as JavaScript and jq."""


def _no_path(task_id: str) -> str:
    if task_id in (".", ".."):
        raise ValueError("task_id must be a name; . and .. are paths")
    return task_id


TaskId = Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN), AfterValidator(_no_path)]


def _bytes_of_image(value: Any) -> Any:
    return images.decode_base64(value) if isinstance(value, str) else value


ImageBytes = Annotated[bytes, BeforeValidator(_bytes_of_image)]
Prompt = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARACTERS)]


class InvalidRequestError(ValueError):
    """A field has a value that this model cannot run, or that is not accepted; ``message`` is a sentence about it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Body(BaseModel):
    """The body of a POST: JSON or a form."""

    model_config = ConfigDict(extra="forbid")

    image_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that are an image: text in base64 in JSON, a file in a form."""


class GenerateRequest(Body):
    """The body of ``POST /generate``. Every field is optional; the model folder's defaults fill those left out."""

    image_fields = frozenset({"image"})

    task_id: TaskId | None = Field(
        None, description="Name of the task. The same name and body return the existing task."
    )
    prompt: Prompt | None = None
    negative_prompt: Prompt | None = Field(None, description="What the video must not show.")
    width: int | None = Field(None, ge=16, le=MAX_SIDE, multiple_of=16, description="Pixels.")
    height: int | None = Field(None, ge=16, le=MAX_SIDE, multiple_of=16, description="Pixels.")
    num_frames: int | None = Field(None, ge=1, le=MAX_FRAMES, description="4k+1, such as 81.")
    num_inference_steps: int | None = Field(None, ge=1, le=MAX_STEPS, description="Denoising steps.")
    guidance_scale: float | None = Field(
        None, ge=0, le=50, allow_inf_nan=False, description="How closely the video follows the prompt; 1 or less: off."
    )
    guidance_scale_2: float | None = Field(
        None, ge=0, le=50, allow_inf_nan=False, description="Guidance of the low-noise expert of a two-expert model."
    )
    flow_shift: float | None = Field(
        None,
        gt=0,
        le=100,
        allow_inf_nan=False,
        description="Shift of the scheduler's noise levels: a larger one spends more steps on the picture's layout.",
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="Random if left out; the task shows it.")
    fps: int | None = Field(None, ge=1, le=120, description="Frames a second.")
    image: ImageBytes | None = Field(
        None,
        description=f"The picture from which the video begins: {images.ALLOWED}; base64 in JSON, a file in "
        "multipart/form-data. It is scaled to cover width x height and cropped around its centre; if both are left "
        "out, the video takes the picture's proportions.",
        json_schema_extra={"format": "byte"},
    )

    def body(self, image: TaskImage | None = None) -> dict[str, Any]:
        """Return the fields the client set, used to recognise a repeated submission; an image is its SHA-256."""
        fields = self.model_dump(exclude_unset=True, exclude={"task_id", "image"})
        return fields | ({"image": image.sha256} if image else {})

    def complete(self, model: ModelFolder, image: TaskImage | None = None, *, max_cost: float = math.inf) -> TaskConfig:
        """Return the task's config: every field with a value, checked against the model.

        Args:
            model: the model that will run it.
            image: the request's image and the path under which it will be stored, if it has one.
            max_cost: the most tokens x steps that the video may have, as a multiple of the model's default video.

        Raises:
            InvalidRequestError: names the field, what was found and what is allowed.
        """
        _check_image_use(model, image)
        self._check_prompts(model)
        config = model.defaults.model_dump() | self.model_dump(exclude_none=True, exclude={"task_id", "image"})
        if image and self.width is None and self.height is None:
            area = config["width"] * config["height"]
            config["width"], config["height"] = images.sides_like(image.width, image.height, area, model.side_multiple)
            _check_proportions(model, image, config)
        config.setdefault("seed", secrets.randbelow(MAX_EXACT_SEED))
        for side in ("width", "height"):
            if config[side] % model.side_multiple:
                raise InvalidRequestError(
                    side, f"Input should be a multiple of {model.side_multiple} for this model (found {config[side]})"
                )
        _check_positions(model, config)
        if config["num_frames"] % model.temporal_scale != 1 % model.temporal_scale:
            low = (config["num_frames"] - 1) // model.temporal_scale * model.temporal_scale + 1
            raise InvalidRequestError(
                "num_frames",
                f"Input should be {model.temporal_scale}k+1 (found {config['num_frames']}; nearest: {low} "
                f"and {low + model.temporal_scale})",
            )
        _check_cost(model, config, max_cost)
        if not model.two_experts:
            if self.guidance_scale_2 is not None:
                raise InvalidRequestError("guidance_scale_2", "This model has no second expert; leave the field out")
            config["guidance_scale_2"] = None
        if not model.takes_flow_shift:
            if self.flow_shift is not None:
                raise InvalidRequestError(
                    "flow_shift",
                    f"The scheduler of this model has no flow shift (found {self.flow_shift:g}); leave the field out",
                )
            config["flow_shift"] = None
        if config["guidance_scale"] <= 1:
            self._check_without_guidance(config["guidance_scale"])
            # The defaults have no effect either, so the task does not show them.
            config |= {"negative_prompt": "", "guidance_scale_2": None}
        return TaskConfig(**config, image=image)

    def _check_prompts(self, model: ModelFolder) -> None:
        for field in ("prompt", "negative_prompt"):
            given = getattr(self, field)
            if given and (count := too_many_tokens(model.path, given)):
                raise InvalidRequestError(
                    field,
                    f"This text is too long for the model: it has {count} tokens, and the text encoder reads "
                    f"{MAX_PROMPT_TOKENS} at most; shorten it (found {textwrap.shorten(repr(given), 60)})",
                )

    def _check_without_guidance(self, scale: float) -> None:
        unused = {
            "negative_prompt": bool(self.negative_prompt),
            "guidance_scale_2": self.guidance_scale_2 is not None and self.guidance_scale_2 > 1,
        }
        for field in (field for field, given in unused.items() if given):
            raise InvalidRequestError(
                field,
                f"This field has no effect, since guidance_scale is {scale:g} and 1 or less turns guidance off for the "
                f"whole video (found {textwrap.shorten(repr(getattr(self, field)), 60)}); leave it out, or send a "
                "guidance_scale above 1",
            )


def _longest_sides(model: ModelFolder) -> dict[str, int]:
    """Return the most pixels along each side: the transformer has no positions for more tokens."""
    _, rows, columns = model.patch
    step = model.spatial_scale * model.positions
    return {"width": step * columns, "height": step * rows}


def _check_positions(model: ModelFolder, config: dict[str, Any]) -> None:
    frames = (model.patch[0] * model.positions - 1) * model.temporal_scale + 1
    for field, most in (_longest_sides(model) | {"num_frames": frames}).items():
        if config[field] > most:
            raise InvalidRequestError(
                field,
                f"Input should be at most {most} for this model, whose transformer has {model.positions} positions "
                f"(rope_max_seq_len) along each dimension (found {config[field]})",
            )


def _check_cost(model: ModelFolder, config: dict[str, Any], max_cost: float) -> None:
    def tokens_of_all_steps(values: dict[str, Any]) -> int:
        tokens = model.tokens(values["width"], values["height"], values["num_frames"])
        return max(1, tokens) * int(values["num_inference_steps"])

    default = model.defaults.model_dump()
    cost = tokens_of_all_steps(config) / tokens_of_all_steps(default)
    if cost > max_cost:
        fields = ("width", "height", "num_frames", "num_inference_steps")
        found, usual = (
            "{width}x{height} pixels, {num_frames} frames and {num_inference_steps} steps".format(**values)
            for values in (config, default)
        )
        raise InvalidRequestError(
            max(fields, key=lambda field: config[field] / default[field]),
            f"This video is too much work: it has {cost:.1f} times the tokens x steps of this model's default video "
            f"({usual}); allowed is at most {max_cost:g} times (max_request_cost). Ask for a smaller picture, fewer "
            f"frames or fewer steps (found {found})",
        )


def _check_proportions(model: ModelFolder, image: TaskImage, config: dict[str, Any]) -> None:
    """Refuse a picture whose proportions give a side that no request may ask for."""
    most = {side: min(longest, MAX_SIDE) for side, longest in _longest_sides(model).items()}
    if any(config[side] > longest for side, longest in most.items()):
        raise InvalidRequestError(
            "image",
            f"The proportions of this picture ({image.width}x{image.height}) give a video of "
            f"{config['width']}x{config['height']} pixels; allowed are at most {most['width']}x{most['height']}. "
            "Crop the picture, or send width and height",
        )


def _check_image_use(model: ModelFolder, image: TaskImage | None) -> None:
    if image and model.image == "none":
        raise InvalidRequestError(
            "image",
            f"This model makes videos from text alone ({model.pipeline_class}; found a {image.format} of "
            f"{image.width}x{image.height}); leave the field out, or serve Wan2.2-I2V-A14B or Wan2.2-TI2V-5B",
        )
    if image is None and model.image == "required":
        raise InvalidRequestError(
            "image",
            f"This model makes videos from a picture ({model.pipeline_class}) and none was given; send "
            f"{images.ALLOWED}, as base64 in JSON or as a file in multipart/form-data",
        )
