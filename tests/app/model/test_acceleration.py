"""Each option alone: off it changes nothing, on it stays near; the same on every number of ranks; refused where it
cannot be. The losses were measured with the trained tiny model that the package ships, on a CPU.
"""

import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from torch.nn.attention import _registry as attention_registry
from torch.nn.attention import current_flash_attention_impl

from app.config import AppArgs, ConfigError, ModelOptions
from app.model import acceleration
from app.model.pipeline import Pipeline
from app.runtime import local_model
from testing.ports import free_port
from testing.rank_pool import RankPool
from tests.app.model.makers import CACHED, GUIDED, UNGUIDED, Frames, alone, make
from training.scoring import psnr

FORTY_STEPS = pytest.mark.slow  # videos as long as the losses were measured with


@pytest.fixture(scope="module")
def lossless() -> Frames:
    return alone(local_model(), {}, {"num_inference_steps": 40})[0][0]


def test_what_costs_quality_is_off_by_default_and_a_cpu_compiles_nothing(tiny_model: Path) -> None:
    assert AppArgs().model_options() == ModelOptions()
    (transformer,) = Pipeline(str(tiny_model), torch.device("cpu"))._transformers
    assert not any(isinstance(module, acceleration.Fp8Linear) for module in transformer.modules())
    assert not any("forward" in vars(block) for block in transformer.blocks)


@pytest.mark.parametrize(
    ("setting", "device", "compiled"),
    [("auto", "cuda", True), ("auto", "cpu", False), ("always", "cpu", True), ("never", "cuda", False)],
)
def test_blocks_are_compiled_on_a_gpu(setting: str, device: str, compiled: bool) -> None:
    options = ModelOptions.model_validate({"compile_blocks": setting})
    assert acceleration.compiles(options, torch.device(device)) is compiled


@FORTY_STEPS
def test_the_attention_that_is_fastest_on_a_cpu_changes_nothing(lossless: Frames) -> None:
    assert acceleration.fastest_attention(4, torch.device("cpu")) == "native"
    frames, _ = alone(local_model(), {"attention_backend": "auto"}, {"num_inference_steps": 40})[0]
    assert np.array_equal(frames, lossless)


@FORTY_STEPS
def test_fp8_linear_layers_stay_near(lossless: Frames) -> None:
    frames, _ = alone(local_model(), {"fp8_linear": True}, {"num_inference_steps": 40})[0]
    assert 27 < psnr([frames], [lossless]) < 60


@FORTY_STEPS
def test_a_step_cache_computes_fewer_steps_and_stays_near(lossless: Frames) -> None:
    frames, computed = alone(local_model(), CACHED, {"num_inference_steps": 40})[0]
    # Two branches a step: 6 steps, then every third of 34.
    assert computed <= 2 * (6 + 12)
    assert 38 < psnr([frames], [lossless]) < 90


@pytest.mark.parametrize("options", [{"fp8_linear": True}, CACHED | {"step_cache_warm_up": 2}], ids=["fp8", "cached"])
@pytest.mark.parametrize("experts", ["tiny_model", "two_expert_model"])
def test_every_number_of_ranks_makes_the_same(
    options: dict[str, Any], experts: str, rank_pool: RankPool, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(experts)
    requests = [GUIDED | {"num_inference_steps": 12}, UNGUIDED | {"num_inference_steps": 12}]
    expected = [frames for frames, _ in alone(folder, options, *requests)]
    for ranks in (2, 4):
        found = rank_pool.call(ranks, make, ranks, free_port(), str(folder), options, *requests)[0]
        for (frames, _), wanted in zip(found, expected, strict=True):
            assert np.array_equal(np.asarray(frames), wanted)


def test_a_request_after_a_cancelled_one_starts_with_an_empty_cache(tiny_model: Path) -> None:
    steps = {"num_inference_steps": 12}
    options = CACHED | {"step_cache_warm_up": 2}
    fresh, again = alone(tiny_model, options, steps, steps)
    cancelled, after = alone(tiny_model, options, steps | {"stop_at": 5}, steps)
    assert cancelled[0].shape == ()
    assert np.array_equal(fresh[0], again[0])
    assert np.array_equal(fresh[0], after[0])


def test_blocks_cannot_be_compiled_without_a_compiler(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"compile_blocks: torch.compile needs a C\+\+ compiler, .* install g\+\+"):
        Pipeline(str(tiny_model), torch.device("cpu"), ModelOptions(compile_blocks="always"))


def make_counted(rank: int, *arguments: Any) -> tuple[list[Any], list[int]]:
    """Do as ``make``; return its results, and how many graphs were compiled for each request."""
    from torch._dynamo.utils import counters

    made: list[int] = []
    generate = Pipeline.generate

    def counted(*given: Any, **named: Any) -> Any:
        before = counters["stats"]["unique_graphs"]
        try:
            return generate(*given, **named)
        finally:
            made.append(counters["stats"]["unique_graphs"] - before)

    with patch.object(Pipeline, "generate", counted):
        return make(rank, *arguments), made


def test_compiled_blocks_stay_near_offloaded_and_where_tokens_divide_and_where_not(
    tiny_model: Path, rank_pool: RankPool
) -> None:
    from torch._dynamo.utils import counters  # a quarter of the time that all tests take to be collected

    uneven = UNGUIDED | {"width": 80, "height": 48, "num_frames": 1}  # 15 tokens
    plain = alone(tiny_model, {}, UNGUIDED, uneven)
    compiled = {"compile_blocks": "always"}
    torch.compiler.reset()
    counters.clear()
    one = make(0, 1, free_port(), str(tiny_model), compiled | {"offload_weights": "always"}, UNGUIDED, UNGUIDED)
    assert counters["stats"]["unique_graphs"] == 1, "weights that go and come again compile nothing anew"
    requests = [UNGUIDED, uneven, uneven | {"width": 112}, uneven, UNGUIDED]
    two, graphs = rank_pool.call(2, make_counted, 2, free_port(), str(tiny_model), compiled, *requests)[0]
    assert [count > 0 for count in graphs] == [True, True, True, False, False], "each size is compiled once"
    # Fused sums round otherwise: not one pixel in its last bit more.
    for (wanted, _), (frames, _) in zip([plain[0], plain[0], *plain], [*one, *two[:2]], strict=True):
        assert np.abs(np.asarray(frames).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("name", ["flash", "_native_cudnn", "fa4", "no-such-backend"])
def test_an_attention_backend_that_the_device_has_not_is_refused_by_name(name: str, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=f"attention_backend: '{name}' cannot be used on cpu; use auto or one of nat"):
        Pipeline(str(tiny_model), torch.device("cpu"), ModelOptions(attention_backend=name))


def test_flash_attention_without_its_package_is_refused_by_name(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (transformer,) = Pipeline(str(tiny_model), torch.device("cpu"))._transformers
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ConfigError, match=r"attention_backend: 'fa4' cannot be used here: .*flash_attn"):
        acceleration._set_attention("fa4", [transformer], torch.device("cuda"))


def test_flash_attention_of_a_package_takes_the_place_of_torchs_own(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (transformer,) = Pipeline(str(tiny_model), torch.device("cpu"))._transformers
    # A stand-in for kernels that need a GPU.
    kernels = Mock()
    monkeypatch.setitem(attention_registry._FLASH_ATTENTION_IMPLS, "FA4", lambda: kernels)
    assert acceleration._set_attention("fa4", [transformer], torch.device("cuda")) == "fa4"
    assert current_flash_attention_impl() == "FA4"
    assert transformer.blocks[0].attn1.processor._attention_backend == "_native_flash"
    # Another choice gives torch its own back.
    assert acceleration._set_attention("native", [transformer], torch.device("cuda")) == "native"
    assert current_flash_attention_impl() is None
    kernels.remove.assert_called_once_with()


def test_fp8_on_a_gpu_without_it_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stand-in for a GPU that this machine has not: what torch says of an A100.
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    with pytest.raises(ConfigError, match=r"fp8_linear: NVIDIA A100 has no FP8 arithmetic; it needs .* 8\.9"):
        acceleration._check_fp8(torch.device("cuda"))


def test_only_the_blocks_linear_layers_become_fp8(tiny_model: Path) -> None:
    (transformer,) = Pipeline(str(tiny_model), torch.device("cpu"), ModelOptions(fp8_linear=True))._transformers
    kinds = {name: type(module) for name, module in transformer.named_modules()}
    assert kinds["blocks.0.ffn.net.2"] is kinds["blocks.1.attn2.to_k"] is acceleration.Fp8Linear
    assert kinds["proj_out"] is torch.nn.Linear
