"""Muon that orthogonalises all matrices of one shape in one batched product.

torch.optim.Muon processes them one by one. That takes 2000 kernels per step, and with matrices of this size as long as
the rest of the training step.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class StackedMuon(torch.optim.Optimizer):
    """The update of ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``; https://kellerjordan.github.io/posts/muon/.

    Args:
        matrices: parameters of two dimensions.
        lr: learning rate, of the same size as AdamW's.
        weight_decay: decoupled weight decay, as AdamW's.
        momentum: Nesterov momentum.
        steps: number of Newton-Schulz iterations.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        steps: int = 5,
    ) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            by_shape[matrix.shape].append(matrix)
        super().__init__([{"params": same} for same in by_shape.values()], {"lr": lr})
        self._weight_decay, self._momentum, self._steps = weight_decay, momentum, steps

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the matrices by their orthogonalised gradients; every matrix must have a gradient."""
        for group in self.param_groups:
            matrices: list[Tensor] = group["params"]
            gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
            mean = group.setdefault("mean", torch.zeros_like(gradients))
            mean.lerp_(gradients, 1 - self._momentum)
            update = orthogonalised(gradients.lerp_(mean, self._momentum), self._steps)
            # Steps as large as Adam's (arXiv:2502.16982), so that one learning rate serves both.
            size = group["lr"] * 0.2 * max(gradients.shape[1:]) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * self._weight_decay)
            torch._foreach_add_(matrices, list(update.unbind()), alpha=-size)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return matrices, (n, rows, columns), with the same singular vectors and singular values near 1."""
    a, b, c = _NEWTON_SCHULZ
    wide = matrices.bfloat16()
    if wide.shape[1] > wide.shape[2]:
        wide = wide.mT
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    result: Tensor = (wide.mT if matrices.shape[1] > matrices.shape[2] else wide).to(matrices.dtype)
    return result
