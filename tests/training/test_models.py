"""The shipped folders are small, complete, and draw what is asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.config import ModelOptions
from training import folder, generation
from training.scoring import score

MODELS = Path(__file__).parents[2] / "app" / "models"
FOLDERS = [MODELS / folder.ONE, MODELS / folder.TWO_EXPERTS]


def test_all_folders_together_stay_within_12_mb() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) <= 12_000_000


def test_no_folder_leans_on_a_link() -> None:
    assert not [file for file in MODELS.rglob("*") if file.is_symlink()]


@pytest.mark.parametrize("model", FOLDERS, ids=lambda path: path.name)
def test_the_default_request_divides_over_1_2_and_4_ranks(model: Path) -> None:
    defaults = json.loads((model / "wan22.json").read_text())["defaults"]
    heads = json.loads((model / "transformer" / "config.json").read_text())["num_attention_heads"]
    tokens = ((defaults["num_frames"] - 1) // 4 + 1) * (defaults["width"] // 16) * (defaults["height"] // 16)
    assert (heads % 4, tokens % 4, defaults["num_frames"] % 4) == (0, 0, 1)


def test_two_experts_have_a_boundary() -> None:
    index = json.loads((MODELS / folder.TWO_EXPERTS / "model_index.json").read_text())
    assert index["boundary_ratio"] == 0.875
    assert index["transformer_2"] == ["diffusers", "WanTransformer3DModel"]


PROMPTS = [
    "on a black ground a yellow triangle is growing",
    "红色底上一个黄色的三角形上升",
    "a black disc sliding right",
]


@pytest.mark.slow  # makes whole videos
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("model", FOLDERS, ids=lambda path: path.name)
def test_held_out_prompts_in_both_languages_get_their_colours_and_direction(model: Path) -> None:
    videos, _ = generation.generate(generation.Request(model, PROMPTS))
    scores = score(PROMPTS, videos)
    assert (scores["colour"], scores["direction"]) == (1, 1), scores["rows"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {"options": ModelOptions(fp8_linear=True)},
        {"options": ModelOptions(step_cache="taylorseer")},
        {"options": ModelOptions(step_cache="taylorseer", fp8_linear=True)},
        {"steps": 7},
    ],
    ids=["fp8", "cached", "fp8-cached", "fewer-steps"],
)
def test_what_trades_quality_for_speed_still_draws_what_is_asked(changes: dict[str, Any]) -> None:
    videos, _ = generation.generate(generation.Request(FOLDERS[1], PROMPTS, **changes))
    scores = score(PROMPTS, videos)
    assert (scores["colour"], scores["direction"], scores["shape"]) == (1, 1, 1), scores["rows"]
