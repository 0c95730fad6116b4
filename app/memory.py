"""Reports how a gang would run a model, and how much memory each of its ranks needs.

``python -m app.memory Wan-AI/Wan2.2-T2V-A14B-Diffusers --gpu-memory 96 --ranks 16``

Nothing is loaded and no GPU is needed. The weights are exact: the model's classes are instantiated without data and
their parameters counted in the dtypes that a rank loads. A request's allocations are an estimate: a rank's code runs on
tensors without data, and the largest sum of live tensors is taken. Allowances are added for what the estimate does not
contain: the kernels' workspaces, the allocator's fragmentation, and the device's context.

The estimate was checked against real runs. On a CPU, a process' memory grows by 1 to 5 % more than the estimate in a
denoising step and by 18 to 26 % more in a decoding. On GPUs, a decoding needed 1.7 to 1.8 times the estimate, and ran
out of memory when 1.5 times the estimate was free (benchmarks/gpu/README.md).
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

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
    rank_weights,
)
from app.plan import MAX_RANKS, NoPlanError, Plan, allowed_counts, gang_plan, request_plan

if TYPE_CHECKING:
    from app.model.meta import Weights


@dataclass(frozen=True)
class Component:
    """The weights of one component of the model."""

    name: str
    parameters: int
    gib: float
    """As a rank holds them, after quantization."""


@dataclass(frozen=True)
class Report:
    """How a gang runs one request, and the memory that each rank needs for it."""

    model: str
    """The folder or hub id as it was asked for."""
    source: str
    """The origin of the configs: built in, or a folder."""
    ranks: int
    gpu_memory: float
    """Memory of one GPU in GiB."""
    size: Size
    tokens: int
    """Length of the request's token sequence."""
    plan: Plan
    components: list[Component]
    demand: Demand
    offloaded: bool
    """True if the weights stay in host memory because weights and request together exceed the GPU."""
    fits: bool
    advice: list[str]
    """Changes that would make the request fit or use all ranks; each is enough by itself."""

    def text(self) -> str:
        """Return the report as a table for people."""
        blocks = [self._request_lines(), self._weight_lines(), self._peak_lines(), self._verdict_lines()]
        return "\n\n".join("\n".join(lines) for lines in blocks)

    def _request_lines(self) -> list[str]:
        return [
            f"{self.model}  ({self.source})",
            f"request      {self.size}: {self.tokens:,} tokens",
            f"plan         {_count(self.ranks, 'rank')}: {self.plan}",
        ]

    def _weight_lines(self) -> list[str]:
        demand = self.demand
        lines = [
            _row("weights in host memory" if self.offloaded else "weights on every rank", "parameters", "GiB"),
            *(_row(f"  {part.name}", f"{part.parameters:,}", part.gib) for part in self.components),
            _row("  sum", "", sum(part.gib for part in self.components)),
        ]
        if self.offloaded:
            lines.append(_row("  on the GPU at one time, every rank", "", demand.weights))
            if demand.encode:
                lines.append(_row("  of them while the image is encoded", "", demand.encoding_weights))
            lines.append(_row("  of them while frames are decoded", "", demand.decoding_weights))
        if demand.loading > demand.weights:
            lines.append(_row("  while they are loaded", "", demand.loading))
        return lines

    def _peak_lines(self) -> list[str]:
        demand = self.demand
        allowance = f"  allowance: {STEP_SHARE:.0%} of a step, {VAE_SHARE:.0%} of the others, and"
        return [
            _row("estimated peak besides the weights", "", "GiB"),
            *([_row("  image encoding, every rank", "", demand.encode)] if demand.encode else []),
            _row("  denoising step, every rank", "", demand.denoise),
            _row("  decoding, every rank", "", demand.decode),
            f"{allowance:<54}{CONTEXT_GIB:>9.2f}",
            "",
            _row("needed", "GPU has", "GiB"),
            _row("  every rank", f"{self.gpu_memory:.2f}", demand.each),
        ]

    def _verdict_lines(self) -> list[str]:
        verdict = ("fits" if self.fits else "does not fit") + (" with its weights offloaded" if self.offloaded else "")
        return [verdict + (":" if self.advice else ""), *(f"  - {line}" for line in self.advice)]

    def json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values; memory is in GiB."""
        return asdict(self) | {"demand": asdict(self.demand) | {"each": self.demand.each}}


def _row(name: str, middle: str, last: str | float) -> str:
    """Return one line of the table; a number is memory in GiB."""
    return f"{name:<38}{middle:>16}{last if isinstance(last, str) else f'{last:.2f}':>9}"


@dataclass(frozen=True)
class _Fleet:
    """GPUs of one kind that run one model; offloads the weights if a request does not fit otherwise."""

    model: ModelFolder
    gpu_memory: float
    """Memory of one GPU in GiB."""
    fp8_linear: bool

    def demand(self, ranks: int, size: Size) -> Demand:
        """Return what each of ``ranks`` ranks needs."""
        resident = demand(self.model, ranks, size, fp8_linear=self.fp8_linear)
        return resident if self._holds(resident) else resident.offloaded(self.weights())

    def fits(self, ranks: int, size: Size) -> bool:
        """Return True if a GPU holds what each of ``ranks`` ranks needs."""
        return self._holds(self.demand(ranks, size))

    def weights(self) -> "list[Weights]":
        """Return the weights of every component."""
        return rank_weights(self.model, self.fp8_linear)

    def _holds(self, demand: Demand) -> bool:
        return demand.each <= self.gpu_memory


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
    """Report how a gang would run one request of the model's default guidance.

    Args:
        model_path: a diffusers Wan folder or hub id; the published models need no network.
        ranks: the size of the gang.
        gpu_memory: memory of one GPU in GiB.
        width: pixels; the model's default if left out.
        height: pixels; the model's default if left out.
        num_frames: frames of the video; the model's default if left out.
        fp8_linear: whether the ranks quantize linear layers (the option of the same name).

    Raises:
        ConfigError: the model cannot be read, or it cannot make a video of this size.
        NoPlanError: the model has no plan for ``ranks`` ranks; names the allowed counts.
    """
    published = built_in(model_path)
    model = published or ModelFolder.read(model_path)
    size = Size(width or model.defaults.width, height or model.defaults.height, num_frames or model.defaults.num_frames)
    _check_size(model, size)
    gang_plan(ranks, model.heads)  # raises NoPlanError
    tokens = model.tokens(size.width, size.height, size.num_frames)
    plan = request_plan(ranks, model.heads, tokens, guided_by_default(model))
    fleet = _Fleet(model, gpu_memory, fp8_linear)
    demand, weights = fleet.demand(ranks, size), fleet.weights()
    return Report(
        model=model_path,
        source="published configs, built in" if published else f"{model.path}",
        ranks=ranks,
        gpu_memory=gpu_memory,
        size=size,
        tokens=tokens,
        plan=plan,
        components=[Component(part.component, part.parameters, part.bytes / GIB) for part in weights],
        demand=demand,
        offloaded=demand.weights < sum(part.bytes for part in weights) / GIB,
        fits=fleet.fits(ranks, size),
        advice=[*_memory_advice(fleet, ranks, size), *_plan_advice(plan)],
    )


def _check_size(model: ModelFolder, size: Size) -> None:
    for name, pixels in (("width", size.width), ("height", size.height)):
        if pixels < 16 or pixels % model.side_multiple:
            raise ConfigError(f"{name}: {pixels} is no multiple of {model.side_multiple}, which this model needs")
    if size.num_frames < 1 or size.num_frames % model.temporal_scale != 1 % model.temporal_scale:
        raise ConfigError(f"num_frames: {size.num_frames} is not {model.temporal_scale}k+1, which this model needs")


def _memory_advice(fleet: _Fleet, ranks: int, size: Size) -> list[str]:
    """Return the changes that would make the request fit, each by itself; none if it fits."""
    model, fits = fleet.model, fleet.fits
    if fits(ranks, size):
        return []
    advice = [f"use GPUs with at least {fleet.demand(ranks, size).each:.0f} GiB"]
    more = next((count for count in allowed_counts(model.heads) if count > ranks and fits(count, size)), None)
    if more:
        advice.append(f"use {more} ranks: each then holds fewer tokens")
    if frames := _largest(model, lambda frames: fits(ranks, replace(size, num_frames=frames)), size.num_frames):
        advice.append(f"ask for at most {_count(frames, 'frame')} at {size.width}x{size.height}")
    multiple = model.side_multiple
    width, height = (max(multiple, side // 2 // multiple * multiple) for side in (size.width, size.height))
    if fits(ranks, Size(width, height, size.num_frames)):
        advice.append(f"ask for a smaller picture: {width}x{height} fits")
    return advice


def _plan_advice(plan: Plan) -> list[str]:
    """Return the advice on a plan that does not use all ranks; none if it does."""
    if plan.replicas == 1:
        return []
    return [
        f"{plan.replicas} groups of ranks repeat each other's work: this request has a plan for "
        f"{_count(plan.ranks // plan.replicas, 'rank')}; a gang of another size uses all its ranks"
    ]


def _largest(model: ModelFolder, fits: Callable[[int], bool], below: int) -> int:
    """Return the largest number of frames below ``below`` that fits; 0 if not even one frame does."""
    low, high = 0, model.latent_frames(below)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits((middle - 1) * model.temporal_scale + 1) else (low, middle)
    return (low - 1) * model.temporal_scale + 1 if low else 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line ``words`` and return its exit code: 0 if the request fits, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m app.memory",
        description="Print the plan and the memory of each rank; exit 1 if it does not fit.",
    )
    parser.add_argument("model", help=f"a diffusers Wan folder or hub id; built in: {', '.join(PUBLISHED)}")
    parser.add_argument("--gpu-memory", type=float, required=True, metavar="GIB", help="memory of one GPU")
    parser.add_argument("--ranks", type=int, required=True, help=f"GPUs of one gang, 1 to {MAX_RANKS}")
    for name in ("width", "height", "num-frames"):
        parser.add_argument(f"--{name}", type=int, help="default: the model's")
    parser.add_argument("--fp8-linear", action="store_true", help="with the application's option fp8_linear")
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
