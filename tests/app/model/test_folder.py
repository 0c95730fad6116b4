"""What is read from a model folder before anything is loaded, and what a broken folder is told."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.config import ConfigError
from app.model.folder import OWN_CONFIG, WAN_NEGATIVE_PROMPT, ModelFolder
from app.runtime import local_model
from app.tiny_model import DEFAULTS, HEADS


def write(folder: Path, index: dict[str, Any], transformer: dict[str, Any], vae: dict[str, Any]) -> ModelFolder:
    scheduler = {"flow_shift": 3.0}
    contents = {"model_index.json": index, "transformer/config.json": transformer, "vae/config.json": vae}
    contents["scheduler/scheduler_config.json"] = scheduler
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return ModelFolder.read(str(folder))


def test_the_tiny_model_is_complete_and_says_its_own_defaults(tiny_model: Path) -> None:
    model = ModelFolder.read(str(tiny_model))
    assert (model.heads, model.pipeline_class, model.two_experts) == (HEADS, "WanPipeline", False)
    assert model.defaults.width == DEFAULTS["width"]


def test_a_model_is_called_by_its_folder_or_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, transformer = {"_class_name": "WanPipeline"}, {"num_attention_heads": 4, "patch_size": [1, 2, 2]}
    assert write(tmp_path / "Wan2.2", index, transformer, {}).name == "Wan2.2"
    snapshot = tmp_path / "hub" / "models--Wan-AI--Wan2.2-T2V-A14B-Diffusers" / "snapshots" / "0123abcd"
    assert write(snapshot, index, transformer, {}).name == "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
    monkeypatch.chdir(tmp_path / "Wan2.2")
    assert ModelFolder.read(".").name == "Wan2.2"


def test_a_two_expert_folder_is_recognised(two_expert_model: Path) -> None:
    assert ModelFolder.read(str(two_expert_model)).two_experts


def test_a14b_has_its_published_settings(tmp_path: Path) -> None:
    index = {"_class_name": "WanPipeline", "boundary_ratio": 0.875}
    model = write(tmp_path, index, {"num_attention_heads": 40, "patch_size": [1, 2, 2]}, {})
    assert model.tokens(1280, 720, 81) == 75_600
    assert model.tokens(832, 480, 81) == 32_760
    assert model.side_multiple == 16
    assert (model.defaults.num_frames, model.defaults.guidance_scale_2, model.defaults.fps) == (81, 3.0, 16)
    assert model.defaults.flow_shift == 12.0, "not the scheduler's own"
    assert model.defaults.negative_prompt == WAN_NEGATIVE_PROMPT


def test_ti2v_5b_has_its_published_settings(tmp_path: Path) -> None:
    index = {"_class_name": "WanPipeline", "boundary_ratio": None, "expand_timesteps": True}
    vae = {"scale_factor_spatial": 16, "scale_factor_temporal": 4}
    model = write(tmp_path, index, {"num_attention_heads": 24, "patch_size": [1, 2, 2]}, vae)
    assert model.tokens(1280, 704, 121) == 27_280
    assert model.side_multiple == 32
    assert (model.defaults.height, model.defaults.num_frames, model.defaults.fps) == (704, 121, 24)
    assert model.defaults.negative_prompt == WAN_NEGATIVE_PROMPT


@pytest.mark.parametrize("name", ["tiny-wan", "tiny-wan-two-experts"])
def test_the_shipped_models_keep_an_empty_negative_prompt(name: str) -> None:
    assert ModelFolder.read(str(local_model().with_name(name))).defaults.negative_prompt == ""


def test_a_missing_folder_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"folder '/no/such/model' does not exist in this container; mount"):
        ModelFolder.read("/no/such/model")


@pytest.mark.parametrize("name", ["wan2.2.safetensors", "wan2.2-Q4.gguf"])
def test_a_file_of_weights_is_refused_with_the_folder_that_is_needed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"weights")
    kind = name.rpartition(".")[2]
    with pytest.raises(ConfigError, match=rf"{name}' is a \.{kind} file, which holds .*; give a folder .*model_index"):
        ModelFolder.read(str(tmp_path / name))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model_index\.json is missing; expected a complete diffusers folder"):
        ModelFolder.read(str(tmp_path))


@pytest.fixture
def nobody() -> Iterator[None]:
    """The test runs as a user who owns nothing; root may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


@pytest.fixture
def closed_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0)
    return folder


def test_a_folder_that_may_not_be_read_is_named_with_the_remedy(closed_folder: Path, nobody: None) -> None:
    with pytest.raises(ConfigError, match=f"may not read all of {closed_folder} .* chmod -R a\\+rX {closed_folder}"):
        ModelFolder.read(str(closed_folder))


@pytest.mark.parametrize("name", ["FluxPipeline", "WanVACEPipeline", "WanVideoToVideoPipeline"])
def test_another_pipeline_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"is a {name}; this service runs WanPipeline and WanImageToVideoPipeline"):
        write(tmp_path, {"_class_name": name}, {}, {})


def test_a_wrong_default_is_named(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("model_index.json", "transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    (tmp_path / OWN_CONFIG).write_text('{"defaults": {"fsp": 8}}')
    with pytest.raises(ConfigError, match=r"wan22\.json: defaults: fsp: Extra inputs are not permitted"):
        ModelFolder.read(str(tmp_path))


def test_a_hub_that_does_not_answer_is_told_apart_from_a_missing_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    # HF_ENDPOINT on a closed loopback port: what a pod without a way out sees.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"the model hub gave no such repository .* check the name, HF_TOKEN"):
        ModelFolder.read("Wan-AI/Wan2.2-T2V-A14B-Diffusers")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("tiny-wan", "tiny-wan"),
        ("hub/models--Wan-AI--Wan2.2-T2V/snapshots/0123abcd", "Wan-AI/Wan2.2-T2V"),
    ],
)
def test_a_model_is_named_by_its_hub_id_or_its_folder(tmp_path: Path, folder: str, name: str) -> None:
    shutil.copytree(local_model(), tmp_path / folder)
    assert ModelFolder.read(str(tmp_path / folder)).name == name
