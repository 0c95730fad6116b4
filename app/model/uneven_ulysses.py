"""Lets diffusers split a sequence whose tokens do not divide over the Ulysses ranks (its ``ulysses_anything``).

diffusers asks every rank for its length several times in each layer, a question that fails between ranks without an
accelerator, and gathers parts of different lengths, which gloo does not (diffusers 0.42, hooks/context_parallel.py).
Here the lengths are known beforehand, and the parts are padded to be gathered.
"""

import torch
import torch.distributed as dist
from diffusers.hooks import context_parallel
from diffusers.models import attention_dispatch

_lengths: tuple[int, ...] = ()


def set_lengths(lengths: tuple[int, ...]) -> None:
    """Say how many tokens each rank has in what is computed from now on, in this process."""
    global _lengths
    if _lengths not in ((), lengths):
        # What was compiled has the lengths in it, and no guard sees them change where this rank's stays as it was.
        torch.compiler.reset()
    _lengths = lengths
    attention_dispatch.gather_size_by_comm = _lengths_of_all
    context_parallel._all_gather_anything = _all_gathered


def _lengths_of_all(length: int, group: dist.ProcessGroup) -> list[int]:
    return list(_lengths)


def _all_gathered(part: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    missing = list(part.shape)
    missing[dim] = max(_lengths) - part.shape[dim]
    padded = torch.cat([part, part.new_zeros(missing)], dim)
    parts = [torch.empty_like(padded) for _ in _lengths]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([one.narrow(dim, 0, length) for one, length in zip(parts, _lengths, strict=True)], dim)
