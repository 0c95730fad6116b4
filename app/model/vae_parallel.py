"""Spreads a VAE's decoder over the ranks of the process group: each computes some rows of the picture.

Most of a Wan decoder looks at one row alone. A convolution needs one row more on either side, which neighbours
exchange, and the attention in the middle needs all keys and values; so the sums are the same as on one rank.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
from torch import nn


@dataclass(frozen=True)
class RowShard:
    """Which rows of a picture this rank has; the ranks follow each other from top to bottom.

    Everything is sent from one rank to another, so ranks without a row need not take part.
    """

    counts: tuple[int, ...]
    """RowShard of each rank that has any, before the decoder enlarges the picture; it keeps their proportions."""
    rank: int

    @classmethod
    def split(cls, height: int, rank: int, ranks: int) -> "RowShard":
        """Split ``height`` rows over ``ranks`` ranks; where they do not divide, the first ranks have one more."""
        ranks = min(height, ranks)
        return cls(tuple(height // ranks + (index < height % ranks) for index in range(ranks)), rank)

    @property
    def is_empty(self) -> bool:
        return self.rank >= len(self.counts)

    @property
    def is_whole(self) -> bool:
        return len(self.counts) == 1

    def scatter(self, picture: torch.Tensor) -> torch.Tensor:
        """Return this rank's rows of rank 0's ``picture``, (..., height, width); here it only has the same shape."""
        if self.is_whole:
            return picture
        parts = torch.split(picture, list(self.counts), dim=-2)
        if self.rank == 0:
            _exchange(dict(enumerate(parts[1:], 1)), {})
            return parts[0]
        mine = torch.empty_like(parts[self.rank], memory_format=torch.contiguous_format)
        _exchange({}, {0: mine})
        return mine

    def exchange_halo(self, padded: torch.Tensor) -> None:
        """Write the neighbours' rows over the first and the last row of ``padded``, (..., 1 + rows + 1, width).

        At the picture's own edges these rows stay as they are.
        """
        neighbours = [(self.rank - 1, 1, 0), (self.rank + 1, -2, -1)]
        found = [(peer, padded.select(-2, own), padded.select(-2, edge)) for peer, own, edge in neighbours]
        found = [(peer, own, edge) for peer, own, edge in found if 0 <= peer < len(self.counts)]
        received = {peer: torch.empty_like(own, memory_format=torch.contiguous_format) for peer, own, _ in found}
        _exchange({peer: own for peer, own, _ in found}, received)
        for peer, _, edge in found:
            edge.copy_(received[peer])

    def all_gather(self, part: torch.Tensor, dim: int) -> torch.Tensor:
        """Return on every rank what the ranks' parts are together; along ``dim`` they are as long as rows allow."""
        others = self._empty_parts(part, dim)
        _exchange(dict.fromkeys(others, part), others)
        return torch.cat([others.get(rank, part) for rank in range(len(self.counts))], dim)

    def gather(self, part: torch.Tensor, dim: int) -> torch.Tensor | None:
        """Return on rank 0 what ``all_gather`` returns on every rank, None on the others."""
        if self.is_whole:
            return part
        if self.rank > 0:
            _exchange({0: part}, {})
            return None
        others = self._empty_parts(part, dim)
        _exchange({}, others)
        return torch.cat([part, *others.values()], dim)

    def _empty_parts(self, part: torch.Tensor, dim: int) -> dict[int, torch.Tensor]:
        shape, a_row = list(part.shape), part.shape[dim] // self.counts[self.rank]
        return {
            rank: part.new_empty([*shape[:dim], a_row * count, *shape[dim + 1 :]])
            for rank, count in enumerate(self.counts)
            if rank != self.rank
        }


@contextmanager
def sharded(decoder: nn.Module, rows: RowShard) -> Iterator[None]:
    """Let a diffusers WanDecoder3d compute ``rows`` from these rows of its input, together with the other ranks.

    All that have rows call it equally often. What it keeps between calls is of the own rows alone.
    """
    replaced: list[tuple[nn.Module, str]] = []

    def replace(module: nn.Module, method: str, function: Any) -> None:
        setattr(module, method, partial(function, module, rows))
        replaced.append((module, method))

    try:
        for module in () if rows.is_whole else decoder.modules():
            if isinstance(module, WanAttentionBlock):
                replace(module, "forward", _attention)
            elif isinstance(module, WanCausalConv3d) and module.kernel_size[1] == 3:
                replace(module, "_conv_forward", _conv3d)
            elif isinstance(module, nn.Conv2d) and module.kernel_size[0] == 3:
                replace(module, "_conv_forward", _conv2d)
        yield
    finally:
        for module, method in replaced:
            delattr(module, method)


def _conv3d(
    conv: Any, rows: RowShard, padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    # Its forward has just made this tensor: the frames before, and zeros around.
    rows.exchange_halo(padded)
    return F.conv3d(padded, weight, bias)


def _conv2d(
    conv: Any, rows: RowShard, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    padded = F.pad(frames, (1, 1, 1, 1))
    rows.exchange_halo(padded)
    return F.conv2d(padded, weight, bias)


def _attention(block: Any, rows: RowShard, hidden: torch.Tensor) -> torch.Tensor:
    """As WanAttentionBlock.forward, with the queries of the own rows and the keys and values of all."""
    batch, channels, frames, height, width = hidden.shape
    x = hidden.permute(0, 2, 1, 3, 4).reshape(batch * frames, channels, height, width)
    tokens = block.to_qkv(block.norm(x)).reshape(batch * frames, 1, channels * 3, -1).permute(0, 1, 3, 2).contiguous()
    query, key_value = tokens.split([channels, 2 * channels], dim=-1)
    key, value = rows.all_gather(key_value.contiguous(), 2).chunk(2, dim=-1)
    x = F.scaled_dot_product_attention(query, key, value)
    x = block.proj(x.squeeze(1).permute(0, 2, 1).reshape(batch * frames, channels, height, width))
    result: torch.Tensor = x.view(batch, frames, channels, height, width).permute(0, 2, 1, 3, 4) + hidden
    return result


def _exchange(sent: dict[int, torch.Tensor], received: dict[int, torch.Tensor]) -> None:
    """Send to and fill from each rank named; on a GPU the stream waits for it, not the process."""
    operations = [dist.P2POp(dist.isend, tensor.contiguous(), rank) for rank, tensor in sent.items()]
    operations += [dist.P2POp(dist.irecv, tensor, rank) for rank, tensor in received.items()]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
