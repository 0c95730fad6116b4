"""Makes diffusers' ``ulysses_anything`` work on every device: sequences that the Ulysses ranks cannot split evenly.

diffusers 0.42 exchanges the ranks' sequence lengths several times in each layer (``gather_size_by_comm``), which fails
without an accelerator, and all-gathers parts of different lengths (``_all_gather_anything`` in
hooks/context_parallel.py), which gloo does not support. The functions here replace both: the plan already contains the
lengths, and parts are padded to the same length before they are all-gathered.
"""

import torch
import torch.distributed as dist
from diffusers.hooks import context_parallel
from diffusers.models import attention_dispatch

_lengths: tuple[int, ...] = ()


def set_lengths(lengths: tuple[int, ...]) -> None:
    """Set the number of tokens on each Ulysses rank for everything that this process computes from now on."""
    global _lengths
    if _lengths not in ((), lengths):
        # Compiled code contains the lengths as constants. If only other ranks' lengths change, no guard notices.
        torch.compiler.reset()
    _lengths = lengths
    attention_dispatch.gather_size_by_comm = _lengths_of_all
    context_parallel._all_gather_anything = _all_gathered


def _lengths_of_all(length: int, group: dist.ProcessGroup) -> list[int]:
    """Replace ``gather_size_by_comm``: return every rank's length without communication."""
    return list(_lengths)


def _all_gathered(part: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    """Replace ``_all_gather_anything``: return all ranks' parts, of different lengths, concatenated along ``dim``."""
    missing = list(part.shape)
    missing[dim] = max(_lengths) - part.shape[dim]
    padded = torch.cat([part, part.new_zeros(missing)], dim)
    parts = [torch.empty_like(padded) for _ in _lengths]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([one.narrow(dim, 0, length) for one, length in zip(parts, _lengths, strict=True)], dim)
