"""Keeps a pipeline's weights in the machine's memory; its components come to the GPU in turn.

A request needs its text encoder once, then one expert after the other, then the VAE's decoder, so one of them is on the
GPU at a time: each comes when it is called, in place of the one before. An expert comes in its first step and stays for
its others, and between blocks nothing is copied, so they can be compiled. Weights whose files have the dtype in which a
rank loads them stay in the page cache of those files, which all ranks of a node share; of others each rank has a copy.
Pinned, they would be a copy of each rank's too.

diffusers' own ways do not serve ranks that share a request. ``enable_model_cpu_offload`` copies weights back, so that
each rank gets its own, and takes the hooks that split a request off the model after each. With group offloading, block
by block on a second stream, two ranks on GPUs stood still (A14B, torch 2.11; benchmarks/gpu/README.md).
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module

from app.config import ModelOptions
from app.model.folder import ModelFolder
from app.model.memory_demand import GIB, demand

_log = logging.getLogger(__name__)

_SENDERS = 8
_PIECE_BYTES = 8 * 2**20


def is_needed(options: ModelOptions, model: ModelFolder, ranks: int, device: torch.device) -> bool:
    """Return whether a gang of ``ranks`` is to offload: as set, or where a GPU does not hold all and a video."""
    if options.offload_weights != "auto" or device.type == "cpu":
        return options.offload_weights == "always"
    held = torch.cuda.get_device_properties(device).total_memory / GIB
    needed = demand(model, ranks, fp8_linear=options.fp8_linear).each
    _log.info("a rank of %d needs %.1f GiB with its weights on the GPU, which has %.1f GiB", ranks, needed, held)
    return needed > held


def offload(pipeline: Any, transformers: list[Any], device: torch.device) -> None:
    """Offload what a diffusers Wan pipeline has loaded on the CPU; the rest of the VAE, small, goes to ``device``."""
    place = _Place(device)
    add_hook_to_module(pipeline.vae, _ComputesOn(device))
    for module in (pipeline.text_encoder, *transformers, pipeline.vae.decoder):
        add_hook_to_module(module, _ComesWhenCalled(module, place))
    for module in pipeline.vae.children():
        if module is not pipeline.vae.decoder:
            module.to(device)


class _Place:
    """The room on ``device`` for the weights of one module."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._taken_by: _ComesWhenCalled | None = None

    def give_to(self, hook: "_ComesWhenCalled") -> None:
        if self._taken_by is hook:
            return
        if self._taken_by is not None:
            self._taken_by.leave()
            self._taken_by = None
        hook.come()
        self._taken_by = hook


class _ComputesOn(ModelHook):  # type: ignore[misc]
    """By its attribute, which every module of a pipeline must have, the pipeline knows where to put its tensors."""

    def __init__(self, device: torch.device) -> None:
        self.execution_device = device


class _ComesWhenCalled(_ComputesOn):
    def __init__(self, module: torch.nn.Module, place: _Place) -> None:
        super().__init__(place.device)
        self._place = place
        tensors = (*module.parameters(), *module.buffers())
        self._kept = [(tensor, tensor.data.contiguous()) for tensor in tensors]

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._place.give_to(self)
        return args, kwargs

    def come(self) -> None:
        copies = _copies([kept for _, kept in self._kept], self._place.device)
        for (tensor, _), copy in zip(self._kept, copies, strict=True):
            tensor.data = copy

    def leave(self) -> None:
        for tensor, kept in self._kept:
            tensor.data = kept


def _copies(tensors: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Return copies of ``tensors``, which are contiguous and on the CPU, on ``device``.

    The driver copies pageable memory in one thread, at 8 GB/s to an H100, however many ask. Threads that copy pieces to
    pinned memory, and these to the GPU, make a video of A14B 8 s shorter (benchmarks/gpu/README.md).
    """
    copies = [torch.empty_like(tensor, device=device) for tensor in tensors]
    pieces = [
        (kept[begin : begin + _PIECE_BYTES], copy[begin : begin + _PIECE_BYTES])
        for kept, copy in zip(map(_bytes, tensors), map(_bytes, copies), strict=True)
        for begin in range(0, len(kept), _PIECE_BYTES)
    ]
    with ThreadPoolExecutor(_SENDERS) as senders:
        list(senders.map(_send, (pieces[sender::_SENDERS] for sender in range(_SENDERS))))
    return copies


@torch.inference_mode()
def _send(pieces: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    # A thread of its own has the default stream, on which the rank computes: what was there before has been used.
    buffer = torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    for kept, copy in pieces:
        staged = buffer[: len(kept)]
        staged.copy_(kept)
        copy.copy_(staged)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(-1).view(torch.uint8)
