"""``python -m benchmarks.gpu.block``: where the time of one transformer block goes, on one GPU, with and without FP8.

Blocks are nearly all of a step, so this says how much of one is attention, which FP8 linear layers leave as it is.
Guidance computed by two ranks gives each the whole sequence, as here.
"""

import argparse
import statistics
from collections import Counter
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from app.config import ModelOptions
from app.model import acceleration
from app.model.hub_configs import built_in
from app.model.meta import meta_module
from benchmarks.gpu.works import WORKS, Work, example_inputs

_ROUNDS = 7
_CALLS = 3


def main() -> None:
    works = [name for name in WORKS if name != "tiny"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.block", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", nargs="+", choices=works, default=works)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    print("| work | FP8 | attention | ms a block | attention | linear layers | else |\n|---|---|---|---|---|---|---|")
    for name in arguments.work:
        for fp8 in (False, True):
            print(f"| {name} | {'yes' if fp8 else 'no'} | {' | '.join(measure(WORKS[name], fp8))} |", flush=True)
            torch.compiler.reset()


def measure(work: Work, fp8: bool) -> list[str]:
    """Return the attention backend, and the milliseconds of a block: all, attention, linear layers, and the rest."""
    device = torch.device("cuda")
    model = built_in(work.model or "")
    assert model is not None
    transformer = meta_module(model, "transformer", num_layers=1).to_empty(device=device)
    for tensor in (*transformer.parameters(), *transformer.buffers()):
        tensor.normal_(0, 0.02)
    block = transformer.blocks[0]
    with torch.inference_mode():
        inputs = _inputs_of(block, transformer, example_inputs(model, transformer, work))
        attention = acceleration.apply(ModelOptions(fp8_linear=fp8), [transformer], device, compiled=True)
        for _ in range(2):
            block(*inputs)
        each = statistics.median(_milliseconds(block, inputs) for _ in range(_ROUNDS))
        with profile(activities=[ProfilerActivity.CUDA]) as record:
            block(*inputs)
            torch.cuda.synchronize()
    spent: Counter[str] = Counter()
    for event in record.key_averages():
        spent[_kind(event.key)] += event.device_time_total / 1000
    return [attention, *(f"{taken:.2f}" for taken in (each, spent["attention"], spent["linear"], spent["else"]))]


def _inputs_of(block: nn.Module, transformer: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[Any, ...]:
    """Return what ``block`` is called with when ``transformer`` is called with ``inputs``."""
    seen: list[tuple[Any, ...]] = []
    hook = block.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    transformer(**inputs, return_dict=False)
    hook.remove()
    return seen[0]


def _milliseconds(block: nn.Module, inputs: tuple[Any, ...]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(_CALLS):
        block(*inputs)
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / _CALLS


def _kind(kernel: str) -> str:
    # Names of compiled kernels tell of all that was fused into them: those come first.
    if kernel.startswith("triton_"):
        return "else"
    if any(word in kernel.lower() for word in ("flash", "fmha", "sdpa")):
        return "attention"
    return "linear" if any(word in kernel.lower() for word in ("nvjet", "gemm", "cutlass")) else "else"


if __name__ == "__main__":
    main()
