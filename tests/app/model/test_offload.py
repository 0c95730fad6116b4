"""Offloaded weights change no frame, and are offloaded where a GPU does not hold them."""

import itertools
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers.utils.torch_utils import get_module_execution_device

from app.config import ModelOptions
from app.gang.rank import Rank
from app.model.folder import ModelFolder
from app.model.hub_configs import PUBLISHED, built_in
from app.model.memory_demand import GIB
from app.model.offload import is_needed, offload, refusal
from app.model.pipeline import Pipeline
from testing.ports import free_port
from testing.rank_pool import RankPool
from tests.app.model.makers import CACHED, GUIDED, SCENE, UNGUIDED, alone, make

OFFLOADED = {"offload_weights": "always"}


@contextmanager
def offloaded(folder: Path) -> Iterator[Pipeline]:
    """Yield a pipeline of one rank, its weights offloaded."""
    pipeline = Pipeline(str(folder), torch.device("cpu"), ModelOptions.model_validate(OFFLOADED))
    pipeline.join(dist.TCPStore("127.0.0.1", free_port(), 1, True), 0, 1, timedelta(seconds=60))
    try:
        yield pipeline
    finally:
        pipeline.leave()


def run(pipeline: Pipeline) -> None:
    pipeline.generate(pipeline.model.default_task(**SCENE | GUIDED), lambda _: True)


@pytest.mark.parametrize("options", [{}, {"fp8_linear": True}, CACHED], ids=["plain", "fp8", "cached"])
def test_offloaded_weights_change_nothing_on_one_and_two_ranks(
    options: dict[str, Any], rank_pool: RankPool, two_expert_model: Path
) -> None:
    requests = [GUIDED | {"num_inference_steps": 10}, UNGUIDED | {"num_inference_steps": 10}]
    expected = [frames for frames, _ in alone(two_expert_model, options, *requests)]
    one = alone(two_expert_model, options | OFFLOADED, *requests)
    two = rank_pool.call(2, make, 2, free_port(), str(two_expert_model), options | OFFLOADED, *requests)[0]
    for wanted, (first, _), (second, _) in zip(expected, one, two, strict=True):
        assert np.array_equal(first, wanted)
        assert np.array_equal(np.asarray(second), wanted)


def test_text_encoder_experts_and_decoder_are_there_in_turn(two_expert_model: Path) -> None:
    with offloaded(two_expert_model) as pipeline:
        names = ("text_encoder", "transformer", "transformer_2", "vae.decoder")
        modules = {name: operator.attrgetter(name)(pipeline._pipeline) for name in names}
        kept = {name: [one.data_ptr() for one in module.parameters()] for name, module in modules.items()}

        def there() -> list[str]:
            return [
                name
                for name, module in modules.items()
                if [one.data_ptr() for one in module.parameters()] != kept[name]
            ]

        seen: list[tuple[str, list[str]]] = []
        for name, module in modules.items():
            inner = next(one for one in module.modules() if isinstance(one, (torch.nn.Linear, torch.nn.Conv3d)))
            inner.register_forward_pre_hook(lambda _, __, name=name: seen.append((name, there())))
        assert there() == []
        for _ in range(2):
            run(pipeline)
    assert all(found == [name] for name, found in seen)
    turns = [name for name, _ in itertools.groupby(name for name, _ in seen)]
    assert turns == [*names, *names]


@pytest.mark.parametrize("folder", ["tiny_model", "two_expert_model", "image_model", "text_or_image_model"])
def test_the_pipeline_puts_its_tensors_where_it_computes(folder: str, request: pytest.FixtureRequest) -> None:
    pipeline = Pipeline(str(request.getfixturevalue(folder)), torch.device("cpu"))
    device = torch.device("meta")
    offload(pipeline._pipeline, pipeline._transformers, device)
    assert get_module_execution_device(pipeline._pipeline.text_encoder) == device
    assert get_module_execution_device(pipeline._pipeline.vae) == device
    assert pipeline._pipeline.vae.device == device
    assert pipeline._pipeline.text_encoder.device == torch.device("cpu")


def test_one_that_does_not_fit_leaves_nothing_behind(two_expert_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with offloaded(two_expert_model) as pipeline:
        module = pipeline._transformers[0]

        def there() -> list[int]:
            return [one.data_ptr() for one in (*module.parameters(), *module.buffers())]

        kept, empty_like = there(), torch.empty_like

        def full(tensor: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            if tensor.data_ptr() == kept[-1]:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return empty_like(tensor, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(torch, "empty_like", full)
            with pytest.raises(torch.OutOfMemoryError):
                run(pipeline)
        assert there() == kept
        run(pipeline)


def _published_on(monkeypatch: pytest.MonkeyPatch, gpu_gib: float) -> ModelFolder:
    """Return T2V-A14B, and let torch report a GPU of ``gpu_gib``, which this machine does not have."""
    properties = SimpleNamespace(total_memory=gpu_gib * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    model = built_in(next(iter(PUBLISHED)))
    assert model is not None
    return model


@pytest.mark.parametrize(
    ("setting", "fp8_linear", "ranks", "gpu_gib", "needed"),
    [
        ("auto", False, 2, 141, False),
        ("auto", False, 2, 48, True),
        # Seen on two H100: a decoding ran out of memory.
        ("auto", False, 2, 79.2, True),
        ("auto", False, 4, 79.2, False),
        ("auto", True, 2, 79.2, False),
        # What two ranks share does not fit one of them.
        ("auto", False, 2, 95.6, False),
        ("auto", False, 1, 95.6, True),
        # 8-bit floats are made of weights that are there.
        ("auto", True, 2, 64, True),
        ("never", False, 2, 48, False),
        ("always", False, 2, 141, True),
    ],
)
def test_they_are_offloaded_where_a_gpu_does_not_hold_them_and_a_video(
    setting: str, fp8_linear: bool, ranks: int, gpu_gib: float, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _published_on(monkeypatch, gpu_gib)
    options = ModelOptions.model_validate({"offload_weights": setting, "fp8_linear": fp8_linear})
    assert is_needed(options, model, ranks, torch.device("cuda")) is needed


@pytest.mark.parametrize(
    ("setting", "ranks", "refused"),
    [("auto", 4, False), ("auto", 2, True), ("auto", 1, True), ("never", 2, False)],
)
def test_ranks_whose_weights_are_on_80_gb_gpus_refuse_a_count_with_which_a_video_no_longer_fits(
    setting: str, ranks: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _published_on(monkeypatch, 79.2)
    options = ModelOptions.model_validate({"offload_weights": setting})
    reason = refusal(options, model, ranks, torch.device("cuda"))
    assert (reason is not None) is refused
    if reason and ranks == 2:
        assert reason.startswith("offload_weights: with 2 ranks, each needs 8")
        assert "its GPU has 79.2 GiB" in reason


def test_a_rank_knows_which_counts_it_can_be_part_of(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resident = Rank(str(tiny_model), "file:///videos", "cpu")
    with pytest.raises(RuntimeError, match="load comes before check_count"):
        resident.check_count(1)
    resident.load(4)
    assert resident.check_count(2) is None, "nothing is too small on a CPU"
    monkeypatch.setattr("app.model.offload.refusal", lambda options, model, ranks, device: f"too few: {ranks}")
    assert resident.check_count(2) == "too few: 2"
    with offloaded(tiny_model) as pipeline:
        assert pipeline.refusal(1) is None, "offloaded weights leave room whatever the count"
