"""Offloaded weights change no frame, and are offloaded where a GPU does not hold them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from app.config import Speed
from app.memory import GIB
from app.offload import is_needed
from app.published import PUBLISHED, published
from tests.app.test_pipeline import GUIDED, UNGUIDED
from tests.app.test_speed import CACHED, alone, make
from tests.app.world import World
from tests.ports import free_port

OFFLOADED = {"offload_weights": "always"}


@pytest.mark.parametrize("options", [{}, {"fp8_linear": True}, CACHED], ids=["plain", "fp8", "cached"])
def test_offloaded_weights_change_nothing_on_one_and_two_ranks(
    options: dict[str, Any], world: World, two_expert_model: Path
) -> None:
    requests = [GUIDED | {"num_inference_steps": 10}, UNGUIDED | {"num_inference_steps": 10}]
    expected = [frames for frames, _ in alone(two_expert_model, options, *requests)]
    one = alone(two_expert_model, options | OFFLOADED, *requests)
    two = world.call(2, make, 2, free_port(), str(two_expert_model), options | OFFLOADED, *requests)[0]
    for wanted, (first, _), (second, _) in zip(expected, one, two, strict=True):
        assert np.array_equal(first, wanted)
        assert np.array_equal(np.asarray(second), wanted)


@pytest.mark.parametrize(
    ("setting", "ranks", "gpu_gib", "needed"),
    [
        ("auto", 2, 141, False),
        ("auto", 2, 48, True),
        # What two ranks share does not fit one of them.
        ("auto", 2, 79.6, False),
        ("auto", 1, 79.6, True),
        ("never", 2, 48, False),
        ("always", 2, 141, True),
    ],
)
def test_they_are_offloaded_where_a_gpu_does_not_hold_them_and_a_video(
    setting: str, ranks: int, gpu_gib: float, needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for GPUs that this machine has not.
    properties = SimpleNamespace(total_memory=gpu_gib * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    model = published(next(iter(PUBLISHED)))
    assert model is not None
    assert is_needed(Speed.model_validate({"offload_weights": setting}), model, ranks, torch.device("cuda")) is needed
