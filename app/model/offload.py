"""Keeps a pipeline's weights in host memory and loads its components to the GPU one at a time.

A request needs its text encoder once, then one expert after the other, then the VAE's decoder. So only one of them is
on the GPU: calling a component loads it in place of the previous one. An expert is loaded in its first step and stays
for its other steps. Nothing is copied between blocks, so blocks can be compiled.

Weights whose files have the dtype in which a rank loads them stay in the page cache of those files, which all ranks of
a node share. Of other weights, each rank has a copy. Pinning them would cost each rank a copy of its own.

diffusers' own offloading does not work for ranks that share a request. ``enable_model_cpu_offload`` copies weights back
to the host, so each rank gets its own copy, and after each request it removes the hooks that parallelism installed on a
transformer. With group offloading, block by block on a second stream, two ranks on GPUs hung (A14B, torch 2.11;
benchmarks/gpu/README.md).
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

_COPY_THREADS = 8
_PIECE_BYTES = 8 * 2**20


def is_needed(options: ModelOptions, model: ModelFolder, ranks: int, device: torch.device) -> bool:
    """Return True if the weights must stay in host memory.

    Always if ``offload_weights`` is set so; with ``auto``, if one GPU cannot hold all weights plus what the model's
    default video needs on a gang of ``ranks`` ranks. On a CPU, ``auto`` never offloads.
    """
    if options.offload_weights != "auto" or device.type == "cpu":
        return options.offload_weights == "always"
    needed, held = _compared(options, model, ranks, device)
    _log.info("a rank of %d needs %.1f GiB with its weights on the GPU, which has %.1f GiB", ranks, needed, held)
    return needed > held


def refusal(options: ModelOptions, model: ModelFolder, ranks: int, device: torch.device) -> str | None:
    """Return the reason why ranks with all weights on their GPUs cannot form a gang of ``ranks``; None if they can.

    ``is_needed`` decides once, when a rank loads its model. With fewer ranks, each holds more of a video's tokens and
    rows, so the weights and the model's default video may no longer fit together.
    """
    if not is_needed(options, model, ranks, device):
        return None
    needed, held = _compared(options, model, ranks, device)
    return (
        f"offload_weights: with {ranks} rank{'' if ranks == 1 else 's'}, each needs {needed:.1f} GiB for the weights "
        f"and the model's default video, and its GPU has {held:.1f} GiB; the ranks loaded their weights onto the GPUs, "
        "which a resize does not undo; keep more ranks, or set offload_weights to always, which loads the model again"
    )


def _compared(options: ModelOptions, model: ModelFolder, ranks: int, device: torch.device) -> tuple[float, float]:
    """Return the GiB that each of ``ranks`` ranks needs with its weights on its GPU, and the GiB that the GPU has."""
    held = torch.cuda.get_device_properties(device).total_memory / GIB
    return demand(model, ranks, fp8_linear=options.fp8_linear).each, held


def offload(pipeline: Any, transformers: list[Any], device: torch.device) -> None:
    """Install offloading hooks on a diffusers Wan pipeline whose weights are on the CPU.

    The VAE's small parts, all but its decoder, move to ``device`` for good.

    Args:
        pipeline: a WanPipeline or WanImageToVideoPipeline.
        transformers: its transformers.
        device: where the components compute.
    """
    slot = _DeviceSlot(device)
    add_hook_to_module(pipeline.vae, _ExecutionDeviceHook(device))
    for module in (pipeline.text_encoder, *transformers, pipeline.vae.decoder):
        add_hook_to_module(module, _SequentialOffloadHook(module, slot))
    for module in pipeline.vae.children():
        if module is not pipeline.vae.decoder:
            module.to(device)


class _DeviceSlot:
    """The memory on ``device`` that holds the weights of one module at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._loaded: _SequentialOffloadHook | None = None

    def load(self, hook: "_SequentialOffloadHook") -> None:
        """Load the weights of the hook's module, after releasing those of the module that was loaded before."""
        if self._loaded is hook:
            return
        if self._loaded is not None:
            self._loaded.to_host()
            self._loaded = None
        hook.to_device()
        self._loaded = hook


class _ExecutionDeviceHook(ModelHook):  # type: ignore[misc]
    """Tells the pipeline where its module computes.

    diffusers reads ``execution_device`` from the modules' hooks to decide where to put input tensors
    (``get_module_execution_device``).
    """

    def __init__(self, device: torch.device) -> None:
        self.execution_device = device


class _SequentialOffloadHook(_ExecutionDeviceHook):
    """Loads the weights of its module before each call, and keeps the originals in host memory all the time.

    Weights do not change, so nothing is copied back: releasing the device's copies makes the module use the originals.
    """

    def __init__(self, module: torch.nn.Module, slot: _DeviceSlot) -> None:
        super().__init__(slot.device)
        self._slot = slot
        tensors = (*module.parameters(), *module.buffers())
        self._originals = [(tensor, tensor.data.contiguous()) for tensor in tensors]

    def pre_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        self._slot.load(self)
        return args, kwargs

    def to_device(self) -> None:
        """Copy the weights to the device. If memory runs out, the module keeps its originals."""
        copies = _copies([original for _, original in self._originals], self._slot.device)
        for (tensor, _), copy in zip(self._originals, copies, strict=True):
            tensor.data = copy

    def to_host(self) -> None:
        """Use the originals in host memory again, which releases the device's copies."""
        for tensor, original in self._originals:
            tensor.data = original


def _copies(tensors: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Copy ``tensors``, which must be contiguous and on the CPU, to ``device``; return when all copies are complete.

    The driver copies pageable memory in one thread, at 8 GB/s to an H100, even if several threads ask for it. Threads
    that copy pieces to pinned buffers, and these to the GPU, make a video of A14B 8 s shorter
    (benchmarks/gpu/README.md).

    The threads need no lock:

    - Each piece is a slice of one tensor and belongs to one thread, so no two threads write to the same memory. Each
      thread has its own pinned buffer, and a copy from it ends before the thread fills the buffer again.
    - The caching allocator may give the copies memory that kernels still use. The current stream is a property of a
      thread, and a new thread begins with the default stream, on which the rank computes. So the copies are queued
      behind those kernels.
    - The caller waits for all threads, so nobody sees a tensor that is partly filled.
    """
    copies = [torch.empty_like(tensor, device=device) for tensor in tensors]
    pieces = [
        (original[begin : begin + _PIECE_BYTES], copy[begin : begin + _PIECE_BYTES])
        for original, copy in zip(map(_bytes, tensors), map(_bytes, copies), strict=True)
        for begin in range(0, len(original), _PIECE_BYTES)
    ]
    with ThreadPoolExecutor(_COPY_THREADS) as threads:
        list(threads.map(_copy_pieces, (pieces[thread::_COPY_THREADS] for thread in range(_COPY_THREADS))))
    return copies


# Inference mode is a property of a thread too: without it, tensors that were made in inference mode refuse writes.
@torch.inference_mode()
def _copy_pieces(pieces: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy each first tensor to its second through one pinned buffer; both are flat uint8."""
    buffer = torch.empty(_PIECE_BYTES, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    for original, copy in pieces:
        staged = buffer[: len(original)]
        staged.copy_(original)
        copy.copy_(staged)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous tensor's memory as flat uint8."""
    return tensor.view(-1).view(torch.uint8)
