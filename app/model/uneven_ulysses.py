"""Makes diffusers' ``ulysses_anything`` work on every device: sequences that the Ulysses ranks cannot split evenly.

diffusers 0.42 exchanges the ranks' sequence lengths several times in each layer (``gather_size_by_comm``), which fails
without an accelerator, and all-gathers parts of different lengths (``_all_gather_anything`` in
hooks/context_parallel.py), which gloo does not support. The functions here replace both: the plan already contains the
lengths, and parts are padded to the same length before they are all-gathered.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from diffusers.hooks import context_parallel
from diffusers.models import attention_dispatch

P = ParamSpec("P")
T = TypeVar("T")

_lengths: tuple[int, ...] = ()
_compiled_for = ""
"""The lengths as text, on which compiled code depends."""


def set_lengths(lengths: tuple[int, ...]) -> None:
    """Set the number of tokens on each Ulysses rank for everything that this process computes from now on.

    Empty if the tokens divide over the ranks.
    """
    global _lengths, _compiled_for
    _lengths = lengths
    _compiled_for = ",".join(map(str, lengths))
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


def guarded(forward: Callable[P, T]) -> Callable[P, T]:
    """Return ``forward`` for ``torch.compile``, so that it is compiled once for each tuple of lengths.

    Compiled code contains the lengths as constants. If only other ranks' lengths change, no other guard notices.
    """

    def with_lengths(*args: P.args, **kwargs: P.kwargs) -> T:
        # Reading the text makes the compiler guard its value; integers could become variables instead.
        assert _compiled_for != "unknown"
        return forward(*args, **kwargs)

    return with_lengths
