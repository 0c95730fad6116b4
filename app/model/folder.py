"""What a diffusers Wan folder says of itself: heads, sizes and defaults, read from its JSON files alone."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from app.config import ConfigError, StrictModel, explain
from app.tasks.task_config import TaskConfig

OWN_CONFIG = "wan22.json"
"""This project's own file in a model folder; its ``defaults`` beat those of the model's kind."""


class Defaults(StrictModel):
    """What a request that leaves a field out gets."""

    prompt: str = ""
    negative_prompt: str = ""
    width: int = Field(1280, ge=16)
    height: int = Field(720, ge=16)
    num_frames: int = Field(81, ge=1)
    num_inference_steps: int = Field(40, ge=1)
    guidance_scale: float = 4.0
    guidance_scale_2: float | None = None
    fps: int = Field(16, ge=1)


# The settings that the Wan2.2 repository gives with each model (wan/configs/wan_*.py, frames and steps included).
A14B_DEFAULTS: dict[str, Any] = {"guidance_scale": 4.0, "guidance_scale_2": 3.0}
I2V_A14B_DEFAULTS: dict[str, Any] = {"guidance_scale": 3.5, "guidance_scale_2": 3.5}
TI2V_5B_DEFAULTS: dict[str, Any] = {
    "height": 704,
    "num_frames": 121,
    "num_inference_steps": 50,
    "guidance_scale": 5.0,
    "fps": 24,
}


ImageUse = Literal["none", "optional", "required"]
Configs = Callable[[str], dict[str, Any]]


@dataclass(frozen=True)
class ModelFolder:
    """A model folder, read but not loaded."""

    path: Path
    pipeline_class: str
    heads: int
    """Attention heads of each transformer."""
    patch: tuple[int, int, int]
    """Latent frames, rows and columns that make one token."""
    temporal_scale: int
    """Frames that make one latent frame."""
    spatial_scale: int
    """Pixels, along one side, that make one latent."""
    two_experts: bool
    image: ImageUse
    """Whether a request has an image to begin with."""
    defaults: Defaults
    configs: Configs
    """The folder's JSON files by their name in it."""

    @property
    def side_multiple(self) -> int:
        """Width and height must be a multiple of this many pixels (and of 16)."""
        return max(16, self.spatial_scale * self.patch[1], self.spatial_scale * self.patch[2])

    def default_task(self, **changes: Any) -> TaskConfig:
        """Return the task of a request that gives nothing but ``changes``; without them, its seed is 0."""
        return TaskConfig(**self.defaults.model_dump() | {"seed": 0, "image": None} | changes)

    def latent_frames(self, num_frames: int) -> int:
        """Return the latent frames of a video of ``num_frames``."""
        return (num_frames - 1) // self.temporal_scale + 1

    def tokens(self, width: int, height: int, num_frames: int) -> int:
        """Return the length of the token sequence of one video; sizes in pixels."""
        frames = self.latent_frames(num_frames) // self.patch[0]
        rows = height // self.spatial_scale // self.patch[1]
        columns = width // self.spatial_scale // self.patch[2]
        return frames * rows * columns

    @classmethod
    def read(cls, model_path: str) -> Self:
        """Read the folder, or the hub repository, that MODEL_PATH names. Of a hub repository only the JSON is fetched.

        Raises:
            ConfigError: it is missing or no Wan pipeline; names the file, what was found, and what to do.
        """
        try:
            folder = resolve(model_path, json_only=True)
            return cls.from_configs(folder, lambda name: _read_json(folder / name))
        except PermissionError as error:
            raise unreadable(model_path, error) from None

    @classmethod
    def from_configs(cls, folder: Path, configs: Configs) -> Self:
        """Read what ``configs`` says of each JSON file; ``folder`` is for messages alone.

        Raises:
            ConfigError: it is no Wan pipeline.
        """
        index = configs("model_index.json")
        name = str(index.get("_class_name"))
        if not name.startswith("Wan"):
            raise ConfigError(
                f"MODEL_PATH: {folder}/model_index.json is a {name}; expected a diffusers Wan pipeline such as "
                "WanPipeline or WanImageToVideoPipeline"
            )
        transformer = configs("transformer/config.json")
        vae = configs("vae/config.json")
        return cls(
            path=folder,
            pipeline_class=name,
            heads=int(transformer["num_attention_heads"]),
            patch=tuple(transformer["patch_size"]),
            temporal_scale=int(vae.get("scale_factor_temporal") or 4),
            spatial_scale=int(vae.get("scale_factor_spatial") or 8),
            two_experts=index.get("boundary_ratio") is not None,
            image=_image_use(name, index),
            defaults=_defaults(folder, index),
            configs=configs,
        )


def _image_use(name: str, index: dict[str, Any]) -> ImageUse:
    # Timesteps of their own for each token make the first frame a given one: the same weights serve both (TI2V-5B).
    if index.get("expand_timesteps"):
        return "optional"
    return "required" if name == "WanImageToVideoPipeline" else "none"


def unreadable(model_path: object, error: PermissionError) -> ConfigError:
    """Return what to say of a folder that this user may not read; safetensors makes its files their writer's alone."""
    return ConfigError(
        f"MODEL_PATH: user {os.geteuid()} may not read all of {model_path} ({error}); make it readable with "
        f"chmod -R a+rX {model_path}"
    )


def resolve(model_path: str, *, json_only: bool = False) -> Path:
    """Return the local folder of a path or hub id; a hub repository is downloaded, or found in the hub's cache.

    Raises:
        ConfigError: there is no such folder and no such repository.
    """
    folder = Path(model_path)
    if folder.is_dir():
        return folder
    # A hub id is "owner/name"; what looks like a path is one.
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
