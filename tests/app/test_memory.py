"""Plan and memory of a gang: weights are exact, the estimate is held against a real process, wrong counts refused."""

import ctypes
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, WanTransformer3DModel

from app.config import ConfigError
from app.memory import main, report
from app.model.acceleration import use_fp8_linear
from app.model.folder import OWN_CONFIG, ModelFolder
from app.model.hub_configs import PUBLISHED, built_in
from app.model.meta import components, rank_dtypes, weights
from app.model.peak_memory import LivePeak, _decode_peak, decode_peak
from app.plan import NoPlanError, Plan, allowed_counts
from app.tiny_model import write_tiny_model
from testing.rank_pool import warm_process

pytestmark = pytest.mark.slow  # Whole models are run on the meta device, half a minute in all.
T2V, I2V, TI2V_5B = PUBLISHED
H20_GIB = 96


@pytest.mark.parametrize("model", [T2V, I2V, TI2V_5B])
@pytest.mark.parametrize(("ranks", "plan"), [(8, Plan(2, 4)), (16, Plan(2, 8))])
def test_eight_and_sixteen_h20_hold_every_model(model: str, ranks: int, plan: Plan) -> None:
    answer = report(model, ranks, H20_GIB)
    assert answer.fits
    assert answer.plan == plan
    assert answer.demand.each < H20_GIB


def test_both_experts_are_counted_on_every_rank() -> None:
    answer = report(T2V, 16, H20_GIB)
    parts = {part.name: part.parameters for part in answer.components}
    # The sizes by which the models are known: 14 B for each expert, 5.7 B for UMT5-XXL, 127 M for the VAE.
    assert parts == {
        "text_encoder": 5_680_910_336,
        "vae": 126_892_531,
        "transformer": 14_288_491_584,
        "transformer_2": 14_288_491_584,
    }
    assert answer.demand.weights == sum(part.gib for part in answer.components)


def published(name: str) -> ModelFolder:
    model = built_in(name)
    assert model is not None
    return model


def test_ti2v_5b_has_one_transformer_of_five_billion() -> None:
    parts = {part.component: part.parameters for part in weights(published(TI2V_5B))}
    assert parts["transformer"] == 4_999_787_712
    assert parts["vae"] == 704_688_668


@pytest.mark.parametrize("model", [T2V, TI2V_5B])
def test_every_count_from_1_to_64_has_a_plan_or_is_refused_with_the_allowed_ones(model: str) -> None:
    heads = published(model).heads
    allowed = allowed_counts(heads)
    for ranks in range(1, 65):
        if ranks in allowed:
            # One frame: each count's peaks take two seconds to compute for a whole video, and decide nothing here.
            assert report(model, ranks, 1000, num_frames=1).plan.ranks == ranks
        else:
            with pytest.raises(NoPlanError, match=f"{heads} attention heads; use one of 1, 2, "):
                report(model, ranks, 1000)


def test_more_ranks_need_less_each() -> None:
    steps = [report(T2V, ranks, H20_GIB).demand.denoise for ranks in (2, 4, 8, 16, 40)]
    assert steps == sorted(steps, reverse=True)


def test_what_does_not_fit_is_told_what_would() -> None:
    answer = report(T2V, 1, H20_GIB, num_frames=1025)
    assert not answer.fits
    frames = next(line for line in answer.advice if "frames at 1280x720" in line)
    most = int(frames.split()[4])
    assert report(T2V, 1, H20_GIB, num_frames=most).fits
    assert not report(T2V, 1, H20_GIB, num_frames=most + 4).fits


def test_ranks_that_shrink_it_enough_are_named() -> None:
    answer = report(T2V, 1, H20_GIB, num_frames=1025)
    line = next(line for line in answer.advice if "each then holds fewer tokens" in line)
    assert report(T2V, int(line.split()[1]), H20_GIB, num_frames=1025).fits


@pytest.mark.parametrize(("model", "ranks", "gpu_memory"), [(T2V, 1, 80), (T2V, 8, 48), (TI2V_5B, 1, 48)])
def test_weights_that_the_gpu_does_not_hold_are_offloaded(model: str, ranks: int, gpu_memory: float) -> None:
    answer = report(model, ranks, gpu_memory)
    assert answer.offloaded
    assert answer.fits
    assert answer.demand.weights < 0.6 * sum(part.gib for part in answer.components)
    assert "fits with its weights offloaded" in answer.text()


def test_tokens_that_do_not_divide_are_split_over_all_ranks() -> None:
    answer = report(TI2V_5B, 3, H20_GIB)
    assert answer.plan == Plan(1, 3, lengths=(9094, 9093, 9093))
    assert answer.advice == []
    assert answer.demand.denoise < report(TI2V_5B, 2, H20_GIB).demand.denoise


def test_ranks_that_repeat_each_other_are_named(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    own = folder / OWN_CONFIG
    own.write_text(json.dumps({"defaults": {"guidance_scale": 1.0, "width": 64, "height": 64}}))
    (line,) = report(str(folder), 8, H20_GIB).advice
    assert line.startswith("2 groups of ranks repeat each other's work: this request has a plan for 4 ranks")


@pytest.mark.parametrize("folder", ["tiny_model", "two_expert_model", "image_model"])
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_the_weights_are_those_that_a_rank_loads(folder: str, device: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(folder)
    model = ModelFolder.read(str(path))
    pipeline = DiffusionPipeline.from_pretrained(path, dtype=rank_dtypes(device))
    plain, fp8 = (
        {part.component: (part.parameters, part.bytes) for part in weights(model, device, fp8_linear=fp8_linear)}
        for fp8_linear in (False, True)
    )
    assert list(plain) == list(fp8) == components(model)
    for name, counted in plain.items():
        module = getattr(pipeline, name)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        assert counted == (parameters, _bytes(module)), name
        if name.startswith("transformer"):
            use_fp8_linear(module)
        assert fp8[name] == (parameters, _bytes(module)), name


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def test_8_bit_floats_need_less_once_they_are_made() -> None:
    plain, fp8 = (report(T2V, 2, H20_GIB, fp8_linear=fp8_linear) for fp8_linear in (False, True))
    assert fp8.demand.loading == plain.demand.weights
    assert fp8.demand.weights == pytest.approx(plain.demand.weights - 2 * 13.1, abs=0.1)
    assert fp8.demand.each < plain.demand.each
    assert "while they are loaded" in fp8.text()
    assert "while they are loaded" not in plain.text()


_M_MMAP_THRESHOLD = -3
"""The option's number in glibc's malloc.h."""


def _denoise() -> Callable[..., object]:
    sizes = {"num_attention_heads": 8, "attention_head_dim": 64, "ffn_dim": 1536, "num_layers": 2, "text_dim": 64}
    transformer = WanTransformer3DModel(**sizes).eval()
    text, time = torch.zeros(1, 512, 64), torch.ones(1)
    return lambda *size: transformer(torch.zeros(1, 16, *size), time, text, return_dict=False)


def _decode() -> Callable[..., object]:
    vae = AutoencoderKLWan(base_dim=24, dim_mult=[1, 2, 2, 2]).eval()
    return lambda *size: vae.decode(torch.zeros(1, 16, *size), return_dict=False)


@torch.inference_mode()
def _growth(make: Callable[[], Callable[..., object]], size: tuple[int, ...]) -> tuple[int, int]:
    """In a process of its own: return what the estimate says of work, and by how much the process grows with it."""
    # Large blocks apart in the kernel's books, given back at once: glibc's pools would hide what is live.
    assert ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20) == 1
    torch.set_num_threads(1)
    with torch.device("meta"):
        dry = make()
        with LivePeak() as estimate:
            dry(*size)
    real = make()
    real(1, 8, 8)  # brings the kernels' own code and tables into memory
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    real(*size)
    return estimate.peak, _memory("VmHWM") - before


def _memory(name: str) -> int:
    (kib,) = re.findall(rf"^{name}:\s+(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kib) * 1024


@pytest.mark.slow  # a process that imports what a rank imports
@pytest.mark.parametrize(("make", "size", "most"), [(_denoise, (3, 48, 64), 1.1), (_decode, (3, 32, 24), 1.3)])
def test_the_estimate_is_what_a_real_process_grows_by(
    make: Callable[[], Callable[..., object]], size: tuple[int, ...], most: float
) -> None:
    with warm_process() as process:
        estimate, grown = process.submit(_growth, make, size).result()
    assert estimate * 0.98 < grown < estimate * most


def test_decoding_grows_evenly_with_the_frames_as_the_estimate_takes_it_to() -> None:
    model = published(T2V)
    assert decode_peak(model, 128, 64, 25) == pytest.approx(_decode_peak(model, 128, 64, 7), rel=0.01)


def test_a_dry_run_leaves_no_process_group() -> None:
    report(TI2V_5B, 2, H20_GIB)
    assert not torch.distributed.is_initialized()


def test_the_command_prints_for_people_and_for_programs(capsys: pytest.CaptureFixture[str], tiny_model: Path) -> None:
    words = [T2V, "--gpu-memory", "96", "--ranks", "16"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "plan         16 ranks: CFG 2 x Ulysses 8" in text
    assert text.endswith("fits\n")
    assert main([*words[:1], "--gpu-memory", "20", "--ranks", "1", "--json"]) == 1
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert answer["fits"] is False
    assert answer["demand"]["each"] > 20
    assert main([str(tiny_model), "--gpu-memory", "8", "--ranks", "4"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "7"], "--ranks: 7 ranks have no parallel plan for a model with 40 attention heads; use one of 1,"),
        (["--ranks", "0"], "use one of 1, 2, 4, 5, 8, 10, 16"),
        (["--ranks", "2", "--width", "1000"], "width: 1000 is no multiple of 16"),
        (["--ranks", "2", "--num-frames", "80"], "num_frames: 80 is not 4k+1"),
        (["--ranks", "2", "--gpu-memory", "0"], "--gpu-memory: 0 is not above 0"),
    ],
)
def test_a_wrong_word_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([T2V, "--gpu-memory", "96", *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_folder_is_told() -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        report("/no/such/model", 1, 96)
