"""Reads heads, sizes and defaults of a diffusers Wan folder from its JSON files, without loading the model."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from app.config import ConfigError, StrictModel, explain
from app.tasks.task_config import TaskConfig

OWN_CONFIG = "wan22.json"
"""This project's own file in a model folder; its ``defaults`` override those of the model's kind."""


class Defaults(StrictModel):
    """The values of the fields that a request leaves out."""

    prompt: str = ""
    negative_prompt: str = ""
    width: int = Field(1280, ge=16)
    """Pixels."""
    height: int = Field(720, ge=16)
    """Pixels."""
    num_frames: int = Field(81, ge=1)
    num_inference_steps: int = Field(40, ge=1)
    guidance_scale: float = 4.0
    """Scale of classifier-free guidance; 1 and less turn it off."""
    guidance_scale_2: float | None = None
    """The same for the low-noise expert; None uses ``guidance_scale`` for both experts."""
    flow_shift: float | None = Field(None, gt=0, le=100)
    """The scheduler's shift of noise levels; None uses the value in its own config."""
    fps: int = Field(16, ge=1)
    """Frames per second of the file."""


WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，"  # noqa: RUF001
    "JPEG压缩残留，丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，"  # noqa: RUF001
    "形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)
"""``sample_neg_prompt`` of the Wan2.2 repository (wan/configs/shared_config.py). It lists faults of pictures, in
Chinese: overexposed, static, blurred, subtitles, low quality, and deformed hands and faces."""

_PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
"""The diffusers classes whose steps ``denoise`` runs."""

# The settings of each model in the Wan2.2 repository (wan/configs/wan_*.py), number of frames and steps included.
# flow_shift is its sample_shift; the schedulers of the diffusers folders have smaller ones.
A14B_DEFAULTS: dict[str, Any] = {
    "negative_prompt": WAN_NEGATIVE_PROMPT,
    "guidance_scale": 4.0,
    "guidance_scale_2": 3.0,
    "flow_shift": 12.0,
}
I2V_A14B_DEFAULTS: dict[str, Any] = {
    "negative_prompt": WAN_NEGATIVE_PROMPT,
    "guidance_scale": 3.5,
    "guidance_scale_2": 3.5,
    "flow_shift": 5.0,
}
TI2V_5B_DEFAULTS: dict[str, Any] = {
    "negative_prompt": WAN_NEGATIVE_PROMPT,
    "height": 704,
    "num_frames": 121,
    "num_inference_steps": 50,
    "guidance_scale": 5.0,
    "flow_shift": 5.0,
    "fps": 24,
}


ImageUse = Literal["none", "optional", "required"]
"""Whether a request brings the image from which its video begins.

- ``none``: the model makes videos from text alone and refuses an image (T2V-A14B).
- ``optional``: the model begins from the image if there is one, and from text alone otherwise (TI2V-5B).
- ``required``: the model cannot make a video without an image (I2V-A14B).
"""
Configs = Callable[[str], dict[str, Any]]
"""Returns the content of a model folder's JSON file, given its path in the folder (``vae/config.json``)."""


@dataclass(frozen=True)
class ModelFolder:
    """A model folder whose configs are read and whose weights are not loaded."""

    path: Path
    """The local folder; the hub id for a built-in model."""
    pipeline_class: str
    """The diffusers class, such as WanPipeline."""
    heads: int
    """Attention heads of each transformer."""
    patch: tuple[int, int, int]
    """Latent frames, rows and columns that make one token."""
    temporal_scale: int
    """Video frames for each latent frame after the first, which is one video frame."""
    spatial_scale: int
    """Pixels for each latent row or column."""
    positions: int
    """Positions of the rotary embedding in each dimension: the most tokens along time, height or width."""
    two_experts: bool
    """Whether there is a high-noise and a low-noise transformer, as in A14B."""
    image: ImageUse
    takes_flow_shift: bool
    """Whether its scheduler shifts noise levels by ``flow_shift``, as UniPC does for flow matching."""
    defaults: Defaults
    configs: Configs

    @cached_property
    def name(self) -> str:
        """The hub id, or the folder's name."""
        path = Path(os.path.abspath(self.path))
        # The hub's cache: models--OWNER--NAME/snapshots/REVISION.
        repository = path.parent.parent.name
        if path.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.removeprefix("models--").replace("--", "/")
        return path.name

    @property
    def side_multiple(self) -> int:
        """Width and height of a video must be multiples of this number of pixels, which is itself at least 16."""
        return max(16, self.spatial_scale * self.patch[1], self.spatial_scale * self.patch[2])

    def default_task(self, **changes: Any) -> TaskConfig:
        """Return the task of a request that gives nothing but ``changes``; without them, its seed is 0."""
        return TaskConfig(**self.defaults.model_dump() | {"seed": 0, "image": None} | changes)

    def latent_frames(self, num_frames: int) -> int:
        """Return the number of latent frames of a video of ``num_frames`` frames."""
        return (num_frames - 1) // self.temporal_scale + 1

    def tokens(self, width: int, height: int, num_frames: int) -> int:
        """Return the length of the token sequence of one video; ``width`` and ``height`` are pixels."""
        frames = self.latent_frames(num_frames) // self.patch[0]
        rows = height // self.spatial_scale // self.patch[1]
        columns = width // self.spatial_scale // self.patch[2]
        return frames * rows * columns

    @classmethod
    def read(cls, model_path: str) -> Self:
        """Read the folder or hub repository that MODEL_PATH names; only the JSON files of a repository are downloaded.

        Raises:
            ConfigError: it is missing, unreadable or not a Wan pipeline; names the file, what was found, and the
                remedy.
        """
        try:
            folder = resolve(model_path, json_only=True)
            return cls.from_configs(folder, lambda name: _read_json(folder / name))
        except PermissionError as error:
            raise unreadable(model_path, error) from None

    @classmethod
    def from_configs(cls, folder: Path, configs: Configs) -> Self:
        """Make a ModelFolder from the JSON files that ``configs`` returns.

        Args:
            folder: where ``wan22.json`` is looked for; also named in messages.
            configs: returns the content of a JSON file.

        Raises:
            ConfigError: the files are not those of a Wan pipeline, or ``wan22.json`` has a wrong default.
        """
        index = configs("model_index.json")
        name = str(index.get("_class_name"))
        if name not in _PIPELINES:
            raise ConfigError(
                f"MODEL_PATH: {folder}/model_index.json is a {name}; this service runs {' and '.join(_PIPELINES)} of "
                "diffusers, such as Wan-AI/Wan2.2-T2V-A14B-Diffusers"
            )
        transformer = configs("transformer/config.json")
        vae = configs("vae/config.json")
        scheduler = configs("scheduler/scheduler_config.json")
        defaults = _defaults(folder, index)
        if defaults.flow_shift is None or "flow_shift" not in scheduler:
            defaults = defaults.model_copy(update={"flow_shift": scheduler.get("flow_shift")})
        return cls(
            path=folder,
            pipeline_class=name,
            heads=int(transformer["num_attention_heads"]),
            patch=tuple(transformer["patch_size"]),
            temporal_scale=int(vae.get("scale_factor_temporal") or 4),
            spatial_scale=int(vae.get("scale_factor_spatial") or 8),
            # The default of diffusers' WanTransformer3DModel (0.42).
            positions=int(transformer.get("rope_max_seq_len") or 1024),
            two_experts=index.get("boundary_ratio") is not None,
            image=_image_use(name, index),
            takes_flow_shift="flow_shift" in scheduler,
            defaults=defaults,
            configs=configs,
        )


def _image_use(name: str, index: dict[str, Any]) -> ImageUse:
    # TI2V-5B: each token has its own timestep, so the first frame can be given as already denoised; the same weights
    # work without it.
    if index.get("expand_timesteps"):
        return "optional"
    return "required" if name == "WanImageToVideoPipeline" else "none"


def unreadable(model_path: object, error: PermissionError) -> ConfigError:
    """Return the error for a folder that this user may not read: safetensors files are created for their owner only."""
    return ConfigError(
        f"MODEL_PATH: user {os.geteuid()} may not read all of {model_path} ({error}); make it readable with "
        f"chmod -R a+rX {model_path}"
    )


def resolve(model_path: str, *, json_only: bool = False) -> Path:
    """Return the local folder of a path or hub id; a repository that is not in the hub's cache is downloaded.

    Args:
        model_path: a folder, or a hub id of the form ``owner/name``.
        json_only: download only the JSON files of a repository.

    Raises:
        ConfigError: it is a file, or there is no such folder and no such repository.
    """
    folder = Path(model_path)
    if folder.is_dir():
        return folder
    if folder.is_file():
        kind = f"a {folder.suffix} file" if folder.suffix else "a file"
        raise ConfigError(
            f"MODEL_PATH: {model_path!r} is {kind}, which holds the weights of one component at most; give a folder as "
            "DiffusionPipeline.save_pretrained writes it (model_index.json, transformer/, vae/, text_encoder/, "
            "tokenizer/, scheduler/), or a hub id such as Wan-AI/Wan2.2-T2V-A14B-Diffusers"
        )
    # Anything else than "owner/name" is a path, not a hub id.
    if model_path.startswith(("/", ".", "~")) or model_path.count("/") != 1:
        raise ConfigError(
            f"MODEL_PATH: folder {model_path!r} does not exist in this container; mount a diffusers Wan folder there, "
            "or give a hub id such as Wan-AI/Wan2.2-T2V-A14B-Diffusers"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_path, allow_patterns=["*.json", "*/*.json"] if json_only else None))
    except Exception as error:
        raise ConfigError(
            f"MODEL_PATH: {model_path!r} is no folder here, and the model hub gave no such repository "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); check the name, HF_TOKEN and the network, or "
            "mount the model and set MODEL_PATH to its folder"
        ) from None


def _defaults(folder: Path, index: dict[str, Any]) -> Defaults:
    kind = TI2V_5B_DEFAULTS if index.get("expand_timesteps") else {}
    if index.get("boundary_ratio") is not None:
        kind = I2V_A14B_DEFAULTS if index.get("_class_name") == "WanImageToVideoPipeline" else A14B_DEFAULTS
    own = _read_json(folder / OWN_CONFIG).get("defaults", {}) if (folder / OWN_CONFIG).exists() else {}
    try:
        return Defaults.model_validate({**kind, **own})
    except ValidationError as error:
        raise ConfigError(f"{folder / OWN_CONFIG}: defaults: {explain(error)}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"MODEL_PATH: {path} is missing; expected a complete diffusers folder (model_index.json, transformer/, "
            "vae/, text_encoder/, tokenizer/, scheduler/), as DiffusionPipeline.save_pretrained writes it"
        ) from None
    except ValueError as error:
        raise ConfigError(f"MODEL_PATH: {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"MODEL_PATH: {path} holds a {type(content).__name__}; expected a JSON object")
    return content
