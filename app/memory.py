"""Says how a gang would run a model, and what each rank of it holds.

``python -m app.memory Wan-AI/Wan2.2-T2V-A14B-Diffusers --gpu-memory 96 --ranks 16``
Nothing is loaded and no GPU is needed. The weights are exact: the model's own classes are made without data and counted
in the dtypes that a rank loads. What a request allocates is an estimate: the same code as a rank's runs on tensors
without data, and the largest sum of live tensors is taken. What a kernel takes for itself, the allocator's pieces and
the device's context are not in it; an allowance stands for them. Checked on a CPU, where a process' memory grows by 1
to 5 % more than the estimate in a denoising step and by 18 to 26 % more in a decoding; and on GPUs, where a decoding
took 1.7 to 1.8 times the estimate, and failed where there was 1.5 times as much (benchmarks/gpu/README.md).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.config import ConfigError
from app.model.folder import ModelFolder
from app.model.hub_configs import PUBLISHED, built_in
from app.model.memory_demand import (
    CONTEXT_GIB,
    GIB,
    STEP_SHARE,
    VAE_SHARE,
    Demand,
    Size,
    demand,
    guided_by_default,
    offloaded,
    rank_weights,
)
from app.plan import MAX_RANKS, NoPlanError, Plan, allowed_counts, gang_plan, request_plan


@dataclass(frozen=True)
class Component:
    """One component's weights."""

    name: str
    parameters: int
    gib: float


@dataclass(frozen=True)
class Report:
    """The answer to one question."""

    model: str
    source: str
    ranks: int
    gpu_memory: float
    size: Size
    tokens: int
    plan: Plan
    components: list[Component]
    demand: Demand
    offloaded: bool
    """Whether the weights are in the machine's memory, since the GPU does not hold them all and the request."""
    fits: bool
    advice: list[str]
    """What would make it fit, or use its ranks better."""

    def text(self) -> str:
        """Return it for people."""
        demand = self.demand
        place = "in the machine's memory" if self.offloaded else "on every rank"
        in_turn = [("on the GPU at one time, every rank", demand.weights)]
        in_turn += [("of them while the image is encoded", demand.encoding_weights)] if demand.encode else []
        in_turn += [("of them while frames are decoded", demand.decoding_weights)]
        verdict = ("fits" if self.fits else "does not fit") + (" with its weights offloaded" if self.offloaded else "")
        lines = [
            f"{self.model}  ({self.source})",
            f"request      {self.size}: {self.tokens:,} tokens",
            f"plan         {_count(self.ranks, 'rank')}: {self.plan}",
            "",
            f"{'weights ' + place:<38}{'parameters':>16}{'GiB':>9}",
            *(f"  {part.name:<36}{part.parameters:>16,}{part.gib:>9.2f}" for part in self.components),
            f"  {'sum':<36}{'':>16}{sum(part.gib for part in self.components):>9.2f}",
            *(f"  {name:<52}{gib:>9.2f}" for name, gib in in_turn if self.offloaded),
            *([f"  {'while they are loaded':<52}{demand.loading:>9.2f}"] if demand.loading > demand.weights else []),
            "",
            f"{'estimated peak beside the weights':<38}{'':>16}{'GiB':>9}",
            *([f"  {'image encoding, every rank':<52}{demand.encode:>9.2f}"] if demand.encode else []),
            f"  {'denoising step, every rank':<52}{demand.denoise:>9.2f}",
            f"  {'decoding, every rank':<52}{demand.decode:>9.2f}",
            f"  {f'allowance: {STEP_SHARE:.0%} of a step, {VAE_SHARE:.0%} of the others, and':<52}{CONTEXT_GIB:>9.2f}",
            "",
            f"{'needed':<38}{'GPU has':>16}{'GiB':>9}",
            f"  {'every rank':<36}{self.gpu_memory:>16.2f}{demand.each:>9.2f}",
            "",
            verdict + (":" if self.advice else ""),
            *(f"  - {line}" for line in self.advice),
        ]
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """Return it for programs; memory is in GiB."""
        return asdict(self) | {"demand": asdict(self.demand) | {"each": self.demand.each}}


def report(
    model_path: str,
    ranks: int,
    gpu_memory: float,
    *,
    width: int | None = None,
    height: int | None = None,
    num_frames: int | None = None,
    fp8_linear: bool = False,
) -> Report:
    """Return how ``ranks`` ranks with ``gpu_memory`` GiB each would run the model; left-out sizes are its defaults.

    Raises:
        ConfigError: the model cannot be read, or it cannot make this size.
        NoPlanError: so many ranks have no plan for it; the allowed counts are named.
    """
    known = built_in(model_path)
    model = known or ModelFolder.read(model_path)
    size = Size(width or model.defaults.width, height or model.defaults.height, num_frames or model.defaults.num_frames)
    _check_size(model, size)
    gang_plan(ranks, model.heads)
    parts = rank_weights(model, fp8_linear)

    def demand_of(ranks: int, size: Size) -> Demand:
        found = demand(model, ranks, size, fp8_linear=fp8_linear)
        return found if found.each <= gpu_memory else offloaded(found, parts)

    needed = demand_of(ranks, size)
    fits = needed.each <= gpu_memory
    tokens = model.tokens(size.width, size.height, size.num_frames)
    plan = request_plan(ranks, model.heads, tokens, guided_by_default(model))
    advice = [] if fits else _advice(model, demand_of, ranks, size, gpu_memory)
    if plan.replicas > 1:
        advice.append(
            f"{plan.replicas} groups of ranks repeat each other's work: this request has a plan for "
            f"{_count(ranks // plan.replicas, 'rank')}; a gang of another size uses all its ranks"
        )
    return Report(
        model=model_path,
        source="published configs, built in" if known else f"{model.path}",
        ranks=ranks,
        gpu_memory=gpu_memory,
        size=size,
        tokens=tokens,
        plan=plan,
        components=[Component(part.component, part.parameters, part.bytes / GIB) for part in parts],
        demand=needed,
        offloaded=needed.weights < sum(part.bytes for part in parts) / GIB,
        fits=fits,
        advice=advice,
    )


def _check_size(model: ModelFolder, size: Size) -> None:
    for name, pixels in (("width", size.width), ("height", size.height)):
        if pixels < 16 or pixels % model.side_multiple:
            raise ConfigError(f"{name}: {pixels} is no multiple of {model.side_multiple}, which this model needs")
    if size.num_frames < 1 or size.num_frames % model.temporal_scale != 1 % model.temporal_scale:
        raise ConfigError(f"num_frames: {size.num_frames} is not {model.temporal_scale}k+1, which this model needs")


def _advice(
    model: ModelFolder, demand_of: Callable[[int, Size], Demand], ranks: int, size: Size, gpu_memory: float
) -> list[str]:
    """Return what would make it fit; each is true by itself."""

    def fits(ranks: int, size: Size) -> bool:
        return demand_of(ranks, size).each <= gpu_memory

    advice = [f"use GPUs with at least {demand_of(ranks, size).each:.0f} GiB"]
    more = next((count for count in allowed_counts(model.heads) if count > ranks and fits(count, size)), None)
    if more:
        advice.append(f"use {more} ranks: each then holds fewer tokens")
    if frames := _largest(model, lambda frames: fits(ranks, Size(size.width, size.height, frames)), size.num_frames):
        advice.append(f"ask for at most {_count(frames, 'frame')} at {size.width}x{size.height}")
    multiple = model.side_multiple
    width, height = (max(multiple, side // 2 // multiple * multiple) for side in (size.width, size.height))
    halved = Size(width, height, size.num_frames)
    if fits(ranks, halved):
        advice.append(f"ask for a smaller picture: {halved.width}x{halved.height} fits")
    return advice


def _largest(model: ModelFolder, fits: Callable[[int], bool], below: int) -> int:
    """Return the most frames under ``below`` that fit, 0 if not even one does."""
    low, high = 0, model.latent_frames(below)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits((middle - 1) * model.temporal_scale + 1) else (low, middle)
    return (low - 1) * model.temporal_scale + 1 if low else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m app.memory", description="Print plan and memory of each rank; exit 1 if it does not fit."
    )
    parser.add_argument("model", help=f"a diffusers Wan folder or hub id; built in: {', '.join(PUBLISHED)}")
    parser.add_argument("--gpu-memory", type=float, required=True, metavar="GIB", help="memory of one GPU")
    parser.add_argument("--ranks", type=int, required=True, help=f"GPUs of one gang, 1 to {MAX_RANKS}")
    for name in ("width", "height", "num-frames"):
        parser.add_argument(f"--{name}", type=int, help="default: the model's")
    parser.add_argument("--fp8-linear", action="store_true", help="with the app's fp8_linear")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args(words)
    if arguments.gpu_memory <= 0:
        parser.error(f"argument --gpu-memory: {arguments.gpu_memory:g} is not above 0")
    try:
        answer = report(
            arguments.model,
            arguments.ranks,
            arguments.gpu_memory,
            width=arguments.width,
            height=arguments.height,
            num_frames=arguments.num_frames,
            fp8_linear=arguments.fp8_linear,
        )
    except NoPlanError as error:
        parser.error(f"argument --ranks: {error}")
    except ConfigError as error:
        parser.error(str(error))
    print(json.dumps(answer.json(), indent=2) if arguments.json else answer.text())
    return 0 if answer.fits else 1


if __name__ == "__main__":
    sys.exit(main())
