"""The GPU benchmark's own arithmetic, and a run of it on this CPU with the tiny model, whose figures mean nothing."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from app.model.folder import ModelFolder
from app.model.hub_configs import PUBLISHED, built_in
from benchmarks.gpu import by_hand, works
from benchmarks.gpu.__main__ import _keep, main
from benchmarks.gpu.works import WORKS, Work, step_flop, write_model
from testing.ports import free_port
from testing.rank_pool import RankPool


def model_of(work: Work) -> ModelFolder:
    model = built_in(work.model or "")
    assert model is not None
    return model


@pytest.mark.slow  # A step of the whole model is counted on the meta device.
@pytest.mark.parametrize("name", ["A14B-720p81", "A14B-480p81", "5B-704p121"])
def test_the_arithmetic_of_a_step_is_what_a_formula_says(name: str) -> None:
    work, model = WORKS[name], model_of(WORKS[name])
    config = model.configs("transformer/config.json")
    tokens = model.tokens(work.width, work.height, work.num_frames)
    width, inner = config["num_attention_heads"] * config["attention_head_dim"], config["ffn_dim"]
    # Of each token: query, key, value and output of self-attention, query and output of cross-attention, the two layers
    # of the feed-forward; then the two products of either attention, over all tokens and over the text's 512.
    linear = 2 * tokens * (6 * width**2 + 2 * width * inner)
    attention = 4 * tokens * (tokens + 512) * width
    both_branches = 2 * config["num_layers"] * (linear + attention)
    assert step_flop(model, work) == pytest.approx(both_branches, rel=0.015)


def test_a_random_model_is_a_complete_folder_with_one_experts_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = json.loads(json.dumps(PUBLISHED["Wan-AI/Wan2.2-T2V-A14B-Diffusers"]))
    for part in ("transformer", "transformer_2"):
        small[f"{part}/config.json"] |= {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
        small[f"{part}/config.json"] |= {"ffn_dim": 32, "text_dim": 32}
    small["vae/config.json"] |= {"base_dim": 4}
    small["text_encoder/config.json"] |= {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}
    small["text_encoder/config.json"] |= {"num_layers": 1}
    model = ModelFolder.from_configs(tmp_path, small.__getitem__)
    monkeypatch.setattr(works, "built_in", lambda _: model)
    folder = write_model(WORKS["A14B-480p81"], tmp_path / "model", torch.device("cpu"))
    found = ModelFolder.read(str(folder))
    assert (found.two_experts, found.heads, found.defaults.num_frames) == (True, 2, 81)
    assert (folder / "transformer_2").resolve() == (folder / "transformer").resolve()
    weights = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    assert weights["blocks.0.ffn.net.2.weight"].dtype == torch.bfloat16
    assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    from app.model.pipeline import Pipeline

    assert Pipeline(str(folder), torch.device("cpu")).model.two_experts


@pytest.mark.slow  # starts torchrun, whose rank compiles its blocks
def test_a_run_makes_a_row_of_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results.json"
    words = ["--work", "tiny", "--gpus", "1", "--steps", "2", "6", "--results", str(results)]
    assert main([*words, "--systems", "torchrun-same"]) == 0
    (row,) = json.loads(results.read_text())
    assert (row["work"], row["gpus"], row["system"]) == ("tiny", 1, "torchrun-same")
    assert row["seconds_per_video"] > row["seconds_after_steps"] > 0
    assert "tflops_per_gpu" not in row, "a CPU has none"
    assert "peak_gib" not in row
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_row_replaces_that_of_the_same_machine_alone(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    row = {"work": "tiny", "gpus": 1, "system": "service"}
    for machine, seconds in (("b", 1), ("a", 2), ("b", 3)):
        _keep(results, row | {"machine": machine, "seconds_per_step": seconds})
    kept = [(one["machine"], one["seconds_per_step"]) for one in json.loads(results.read_text())]
    assert kept == [("a", 2), ("b", 3)]


@pytest.fixture(scope="module")
def fresh_world() -> Iterator[RankPool]:
    """Processes of these tests alone: cache-dit changes diffusers' classes."""
    rank_pool = RankPool()
    yield rank_pool
    rank_pool.close()


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(WORKS["tiny"], tmp_path_factory.mktemp("models"), torch.device("cpu"))


def _by_hand(rank: int, port: int, system: str, folder: str) -> list[by_hand.Taken]:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with mock.patch.dict(os.environ, {name: str(value) for name, value in places.items()}):
        return by_hand.taken_by(system, folder, "tiny", [2, 4])


@pytest.mark.slow
@pytest.mark.parametrize("system", ["same", "eager", "cache-dit", "cache-dit-cached"])
def test_two_ranks_by_hand_make_each_video(system: str, fresh_world: RankPool, tiny_model: Path) -> None:
    videos, _ = fresh_world.call(2, _by_hand, free_port(), system, str(tiny_model))
    assert len(videos) == 2
    for video in videos:
        assert min(video) > 0
        assert video.first_step + video.after_steps < video.all, "there are steps between"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--work", "A14B-720p81"], "torch sees no GPU here"),
        (["--work", "tiny"], "--results: give a file; results.json is for figures of GPUs"),
        (["--work", "tiny", "--results", "x", "--steps", "6", "2"], "--steps: the first must be less"),
    ],
)
def test_a_wrong_word_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert message in capsys.readouterr().err
