"""The training loop of all three trainings: optimiser, learning rate and the record of the losses."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training.muon import StackedMuon


@dataclass
class Curve:
    """Losses of one training, averaged between the recorded steps."""

    name: str
    steps: list[int] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready values; ``seconds`` is wall-clock time, compilation included."""
        return {"name": self.name, "seconds": round(self.seconds, 1), "steps": self.steps, "losses": self.losses}


def descend(
    name: str,
    modules: Iterable[nn.Module],
    step: Callable[[int], dict[str, Tensor]],
    steps: int,
    rate: float,
    after_step: Callable[[int], None] = lambda _: None,
    points: int = 60,
    matrices: list[nn.Parameter] | None = None,
) -> Curve:
    """Run ``steps`` steps with warm-up and a cosine decay to zero, and return the losses.

    Args:
        name: the curve's name.
        modules: their parameters are trained.
        step: stores new gradients in the parameters and returns the step's losses as scalars.
        steps: number of steps.
        rate: the highest learning rate.
        after_step: called with the step's number after the weights were updated.
        points: the number of averages in the curve.
        matrices: the parameters that Muon trains (https://kellerjordan.github.io/posts/muon/); AdamW trains the others.
    """
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    optimisers = _optimisers(parameters, matrices or [], rate)
    warm_up = min(200, max(1, steps // 10))
    curve, started = Curve(name), time.monotonic()
    sums: dict[str, Tensor] = {}
    every = max(1, steps // points)
    for number in range(steps):
        share = max(0.0, number - warm_up) / max(1, steps - warm_up)
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate * min(1.0, (number + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * share))
        losses = step(number)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        after_step(number)
        # Losses are summed on the device: reading each one would synchronize with the GPU at every step.
        for key, value in losses.items():
            sums[key] = sums.get(key, torch.zeros((), device=value.device)) + value.detach()
        if (number + 1) % every == 0:
            curve.steps.append(number + 1)
            for key, total in sums.items():
                curve.losses.setdefault(key, []).append(round(float(total) / every, 6))
            sums = {}
            if len(curve.steps) % 6 == 0:
                last = {key: values[-1] for key, values in curve.losses.items()}
                print(f"{name} step {number + 1}/{steps} {last} {time.monotonic() - started:.0f} s", flush=True)
    curve.seconds = time.monotonic() - started
    return curve


def _optimisers(
    parameters: list[nn.Parameter], matrices: list[nn.Parameter], rate: float
) -> list[torch.optim.Optimizer]:
    chosen = {id(matrix) for matrix in matrices}
    others = [parameter for parameter in parameters if id(parameter) not in chosen]
    fused = others[0].is_cuda
    adam = torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)
    if not matrices:
        return [adam]
    return [adam, StackedMuon(matrices, rate)]
