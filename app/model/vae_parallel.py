"""Shards a VAE's decoder over the ranks of the process group by rows: each rank computes some rows of every frame.

Most of a Wan decoder works on each row alone. A convolution with a kernel of 3 needs one more row on either side, which
neighbouring ranks exchange before it (a halo exchange), and the attention in the middle needs the keys and values of
all ranks (an all-gather). So every output pixel is the same sum as on one rank. vllm-omni shards Wan's VAE in the same
way (``distributed/autoencoders/wan_spatial_shard.py``).

While ``sharded`` is entered, methods of the decoder's modules are replaced; the modules are those of diffusers 0.42,
models/autoencoders/autoencoder_kl_wan.py.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock, WanCausalConv3d
from torch import nn

from app.config import ConfigError

SUPPORTED = "diffusers>=0.42.1,<0.43"
"""The versions whose modules are known here; pyproject.toml requires the same."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class RowShard:
    """The rows of a picture that one rank holds; the ranks' shards follow each other from top to bottom.

    All communication is point to point, so ranks without rows need not take part. Tensors may have any layout: they are
    made contiguous before they are sent. Their dtype may be any that the backend sends, and must be the same on all
    ranks; their device must be the backend's (CUDA for NCCL, the CPU for gloo).
    """

    counts: tuple[int, ...]
    """Number of rows of each rank that has any, in the latents. The decoder enlarges all shards by the same factor."""
    rank: int
    """The rank of this process."""

    @classmethod
    def split(cls, height: int, rank: int, ranks: int) -> "RowShard":
        """Split ``height`` rows over ``ranks`` ranks; if they do not divide evenly, the first ranks get one more."""
        ranks = min(height, ranks)
        return cls(tuple(height // ranks + (index < height % ranks) for index in range(ranks)), rank)

    @property
    def is_empty(self) -> bool:
        """Whether this rank has no rows, because there are more ranks than rows."""
        return self.rank >= len(self.counts)

    @property
    def is_whole(self) -> bool:
        """Whether this rank has all rows."""
        return len(self.counts) == 1

    def scatter(self, picture: torch.Tensor) -> torch.Tensor:
        """Scatter rank 0's ``picture``, (..., height, width), by rows; return this rank's shard.

        On other ranks only shape, dtype and device of ``picture`` are used. The result is contiguous there, and a view
        of ``picture`` on rank 0.
        """
        if self.is_whole:
            return picture
        shards = torch.split(picture, list(self.counts), dim=-2)
        if self.rank == 0:
            _exchange(dict(enumerate(shards[1:], 1)), {})
            return shards[0]
        shard = torch.empty_like(shards[self.rank], memory_format=torch.contiguous_format)
        _exchange({}, {0: shard})
        return shard

    def exchange_halo(self, padded: torch.Tensor) -> None:
        """Overwrite the first and the last row of ``padded`` with the neighbouring ranks' rows, in place.

        The first row of the first rank and the last row of the last rank are the picture's padding and do not change.

        Args:
            padded: (..., 1 + rows + 1, width), of any layout; no other tensor may need its first and last row.
        """
        neighbours = [(self.rank - 1, 1, 0), (self.rank + 1, -2, -1)]
        found = [(peer, padded.select(-2, own), padded.select(-2, edge)) for peer, own, edge in neighbours]
        found = [(peer, own, edge) for peer, own, edge in found if 0 <= peer < len(self.counts)]
        received = {peer: torch.empty_like(own, memory_format=torch.contiguous_format) for peer, own, _ in found}
        _exchange({peer: own for peer, own, _ in found}, received)
        for peer, _, edge in found:
            edge.copy_(received[peer])

    def all_gather(self, part: torch.Tensor, dim: int) -> torch.Tensor:
        """Return all ranks' parts concatenated along ``dim``, on every rank.

        Along ``dim``, the length of each part must be proportional to its rank's number of rows; the other dimensions
        must be equal on all ranks.
        """
        others = self._receive_buffers(part, dim)
        _exchange(dict.fromkeys(others, part), others)
        return torch.cat([others.get(rank, part) for rank in range(len(self.counts))], dim)

    def gather(self, part: torch.Tensor, dim: int) -> torch.Tensor | None:
        """Return all ranks' parts concatenated along ``dim`` on rank 0, and None on the others.

        The requirements on ``part`` are those of ``all_gather``.
        """
        if self.is_whole:
            return part
        if self.rank > 0:
            _exchange({0: part}, {})
            return None
        others = self._receive_buffers(part, dim)
        _exchange({}, others)
        return torch.cat([part, *others.values()], dim)

    def _receive_buffers(self, part: torch.Tensor, dim: int) -> dict[int, torch.Tensor]:
        """Return an uninitialized, contiguous tensor for the part of each other rank, by rank."""
        shape, row_length = list(part.shape), part.shape[dim] // self.counts[self.rank]
        return {
            rank: part.new_empty([*shape[:dim], row_length * count, *shape[dim + 1 :]])
            for rank, count in enumerate(self.counts)
            if rank != self.rank
        }


@contextmanager
def sharded(decoder: nn.Module, rows: RowShard) -> Iterator[None]:
    """Let a diffusers WanDecoder3d take and return the rows of this rank's shard only.

    Every rank with rows must call the decoder the same number of times, with inputs that differ in their rows only.
    Cached features belong to this rank's rows only.

    Raises:
        ConfigError: the decoder cannot be sharded; see ``check_shardable``.
    """
    if rows.is_whole:
        yield
        return
    patches = _patches(decoder)
    try:
        for module, method, function in patches:
            setattr(module, method, partial(function, module, rows))
        yield
    finally:
        for module, method, _ in patches:
            vars(module).pop(method, None)


def check_shardable(decoder: nn.Module) -> None:
    """Check that every convolution of ``decoder`` that reads more than one row is known, so that it gets its halo.

    An unknown one would compute without its neighbours' rows and draw seams into the picture.

    Raises:
        ConfigError: names the module and the supported versions of diffusers.
    """
    _patches(decoder)


def _patches(decoder: nn.Module) -> list[tuple[nn.Module, str, Callable[..., torch.Tensor]]]:
    """Return what must be replaced to shard ``decoder``: module, name of the method, and the function."""
    patches: list[tuple[nn.Module, str, Callable[..., torch.Tensor]]] = []
    for name, module in decoder.named_modules():
        if isinstance(module, WanAttentionBlock):
            patches.append((module, "forward", _attention))
        elif not isinstance(module, _CONVOLUTIONS) or _rows_of_kernel(module) == 1:
            continue
        elif type(module) is WanCausalConv3d and _is_plain(module) and _padding_of_rows(module) == (1, 1):
            patches.append((module, "_conv_forward", _conv3d))
        elif type(module) is nn.Conv2d and _is_plain(module) and module.padding == (1, 1):
            patches.append((module, "_conv_forward", _conv2d))
        else:
            raise ConfigError(
                f"diffusers: version {diffusers.__version__} is not supported: the VAE's module decoder.{name} is "
                f"{module}, which cannot be split by rows; install {SUPPORTED}"
            )
    return patches


def _rows_of_kernel(convolution: Any) -> int:
    """Return the number of rows that a kernel covers; of a one-dimensional kernel, its length."""
    return int(convolution.kernel_size[-2 if len(convolution.kernel_size) > 1 else 0])


def _is_plain(convolution: Any) -> bool:
    """Return True if ``_conv2d`` and ``_conv3d`` compute the same: 3 rows, a stride of 1, one group, zero padding."""
    ones = (1,) * len(convolution.kernel_size)
    return bool(
        _rows_of_kernel(convolution) == 3
        and convolution.stride == convolution.dilation == ones
        and convolution.groups == 1
        and convolution.padding_mode == "zeros"
    )


def _padding_of_rows(convolution: Any) -> tuple[int, ...]:
    """Return the zeros that a WanCausalConv3d adds above and below the rows."""
    return tuple(convolution._padding[2:4])


def _conv3d(
    conv: Any, rows: RowShard, padded: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Replace ``WanCausalConv3d._conv_forward``, which gets (batch, channels, frames, 1 + rows + 1, width)."""
    # WanCausalConv3d.forward has just allocated ``padded`` (previous frames, and zeros around), so it may be changed.
    rows.exchange_halo(padded)
    return F.conv3d(padded, weight, bias)


def _conv2d(
    conv: Any, rows: RowShard, frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Replace ``Conv2d._conv_forward``, which gets (frames, channels, rows, width)."""
    padded = F.pad(frames, (1, 1, 1, 1))
    rows.exchange_halo(padded)
    return F.conv2d(padded, weight, bias)


def _attention(block: Any, rows: RowShard, hidden: torch.Tensor) -> torch.Tensor:
    """Replace ``WanAttentionBlock.forward``: queries of this rank's rows, keys and values of all rows.

    ``hidden`` and the result are (batch, channels, frames, rows, width), of any dtype and layout.
    """
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
    """Exchange tensors point to point. With NCCL the CUDA stream waits; the Python thread does not.

    Args:
        sent: the tensor for each receiving rank, of any layout.
        received: the tensor that each sending rank fills; it must be contiguous, and of the shape and dtype that the
            rank sends.
    """
    operations = [dist.P2POp(dist.isend, tensor.contiguous(), rank) for rank, tensor in sent.items()]
    operations += [dist.P2POp(dist.irecv, tensor, rank) for rank, tensor in received.items()]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
