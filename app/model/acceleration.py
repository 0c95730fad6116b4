"""Applies the options that make a model faster to its transformers, once a rank has loaded them.

The attention backend and compilation change only the order of sums; on a GPU they are on by default. FP8 linear layers
and the step cache lose some quality, so they are off by default. If a device cannot do what an option asks for, the
rank refuses to start and names the option; it never ignores one silently.
"""

import logging
import os
import shutil
import time
from typing import Any

import torch
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
from torch import nn
from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl

from app.config import ConfigError, ModelOptions
from app.model import uneven_ulysses

_log = logging.getLogger(__name__)

_FLASH_IMPLEMENTATIONS = {"fa3": "FA3", "fa4": "FA4"}
"""Our names of FlashAttention-3 (arXiv:2407.08608) and -4, and torch's. Separate packages contain their kernels
(flash_attn_interface, flash-attn-4). Once activated, torch runs them instead of its own flash attention
(arXiv:2307.08691) in the whole process."""
_CANDIDATES = {
    "cpu": ("native",),
    "cuda": ("native", "_native_cudnn", "_native_flash", "flash", *_FLASH_IMPLEMENTATIONS),
}
"""The attention backends that may be used, by device: diffusers' names and those above. Each of them works with Ulysses
parallelism and needs no download at run time."""
_MOST_COMPILED = 64
"""How often torch compiles a block again, once for each size whose tokens do not divide over the ranks; torch's own
limit of 8 is for code that changes without end. Further sizes run without compilation."""
_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max
"""The largest finite number of E4M3: 448."""
_FP8_CAPABILITY = (8, 9)
"""The lowest CUDA compute capability with FP8 matrix products: Ada."""


def compiles(options: ModelOptions, device: torch.device) -> bool:
    """Return True if the transformers' blocks must be compiled: as set, or with ``auto`` on a GPU."""
    return options.compile_blocks == "always" or (options.compile_blocks == "auto" and device.type == "cuda")


def apply(options: ModelOptions, transformers: list[Any], device: torch.device, *, compiled: bool) -> str:
    """Apply ``options`` to ``transformers`` in place and return the name of their attention backend.

    Args:
        options: how to run the model.
        transformers: the one or two WanTransformer3DModel of a pipeline.
        device: the device that they compute on.
        compiled: whether to compile their blocks; see ``compiles``.

    Raises:
        ConfigError: the device cannot do what an option asks for; names the option and the allowed values.
    """
    attention = _set_attention(options.attention_backend, transformers, device)
    if options.fp8_linear:
        _check_fp8(device)
        for transformer in transformers:
            use_fp8_linear(transformer)
    if compiled:
        _check_compiler()
        torch._dynamo.config.recompile_limit = _MOST_COMPILED
        # torch's default. Compiled collectives check whether it was ever set, and torch sets it when it restores its
        # settings after a compilation: then the first size would be compiled a second time.
        torch.compiler.config.compile_on_one_rank = False
        for block in (block for transformer in transformers for block in transformer.blocks):
            # Not block.compile(): that would also compile the hooks which sequence parallelism adds to a block later.
            block.forward = torch.compile(uneven_ulysses.guarded(block.forward))
    return attention


def _check_compiler() -> None:
    names = (os.environ.get("CXX") or "g++", os.environ.get("CC") or "gcc", "clang")
    if not any(map(shutil.which, names)):
        raise ConfigError(
            "compile_blocks: torch.compile needs a C++ compiler, and none is on PATH; install g++ and Python's headers "
            "(this project's image contains both), or set compile_blocks to never"
        )


def _set_attention(name: str, transformers: list[Any], device: torch.device) -> str:
    candidates = _CANDIDATES[device.type]
    if name not in ("auto", *candidates):
        raise ConfigError(
            f"attention_backend: {name!r} cannot be used on {device.type}; use auto or one of {', '.join(candidates)}"
        )
    if name == "auto":
        config = transformers[0].config
        name = fastest_attention(config.num_attention_heads, device, head_size=config.attention_head_dim)
    try:
        backend = _activated(name)
        if name != "native":
            for transformer in transformers:
                transformer.set_attention_backend(backend)
    except (RuntimeError, ValueError, ImportError) as error:
        raise ConfigError(f"attention_backend: {name!r} cannot be used here: {error}") from None
    return name


def _activated(name: str) -> str:
    """Activate in torch the implementation that backend ``name`` needs; return diffusers' name of the backend."""
    restore_flash_attention_impl(_raise_warn=False)
    if name not in _FLASH_IMPLEMENTATIONS:
        return name
    activate_flash_attention_impl(_FLASH_IMPLEMENTATIONS[name])
    return "_native_flash"


def fastest_attention(heads: int, device: torch.device, *, tokens: int = 32768, head_size: int = 128) -> str:
    """Time every attention backend of ``device`` and return the fastest; backends that fail to run are skipped.

    Args:
        heads: attention heads.
        device: the device to measure on.
        tokens: length of the sequence on a GPU; a CPU measures with 256.
        head_size: channels of each head.
    """
    if device.type == "cpu":
        tokens = 256
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    query = torch.randn(1, tokens, heads, head_size, dtype=dtype, device=device)
    seconds: dict[str, float] = {}
    for name in _CANDIDATES[device.type]:
        try:
            with attention_backend(_activated(name)), torch.inference_mode():
                seconds[name] = min(_timed(query, device) for _ in range(5))
        # Some packages compile their kernels in the first call, which may raise any exception.
        except Exception as error:
            _log.info("attention backend %s does not run here: %s", name, error)
    restore_flash_attention_impl(_raise_warn=False)
    best = min(seconds, key=lambda name: seconds[name])
    _log.info("attention backend %s: %s", best, {name: f"{1000 * taken:.2f} ms" for name, taken in seconds.items()})
    return best


def _timed(query: torch.Tensor, device: torch.device) -> float:
    begin = time.perf_counter()
    dispatch_attention_fn(query, query, query)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _check_fp8(device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
        raise ConfigError(
            f"fp8_linear: {torch.cuda.get_device_name(device)} has no FP8 arithmetic; it needs compute capability "
            f"{'.'.join(map(str, _FP8_CAPABILITY))} or more (Ada, Hopper and later); set fp8_linear to false"
        )


def use_fp8_linear(transformer: nn.Module) -> int:
    """Replace all linear layers in the blocks of ``transformer`` by ``Fp8Linear``; return their number."""
    found = [
        (name, module)
        for name, module in transformer.named_modules()
        if name.startswith("blocks.") and isinstance(module, nn.Linear)
    ]
    for name, module in found:
        parent, _, attribute = name.rpartition(".")
        setattr(transformer.get_submodule(parent), attribute, Fp8Linear(module))
    return len(found)


class Fp8Linear(nn.Module):
    """A linear layer that multiplies 8-bit floats (E4M3, arXiv:2209.05433) with row-wise scales.

    The weight is quantized once, each output channel with its own scale. The input is quantized in every call, each
    token with its own scale; no calibration is needed. ``torch._scaled_mm`` multiplies both and applies both scales.
    On a GPU it needs ``in`` and ``out`` to be multiples of 16. torchao calls this scheme
    ``Float8DynamicActivationFloat8WeightConfig(PerRow())``.
    """

    weight: torch.Tensor
    """(out, in), float8_e4m3fn."""
    scale: torch.Tensor
    """(1, out), float32: the original weight is about ``weight * scale.T``."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _quantized(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = linear.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return (..., out) in the dtype of ``values``, (..., in); the product is rounded to bfloat16 in between."""
        rows, scale = _quantized(values.reshape(-1, values.shape[-1]))
        product = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        result = product.to(values.dtype).reshape(*values.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


def _quantized(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize each row of ``rows``, (n, k), so that its largest magnitude becomes the largest E4M3 number.

    Returns:
        (n, k) in float8_e4m3fn and the scales, (n, 1) in float32; their product is about ``rows``.
    """
    scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / _FP8_MAX
    return (rows.float() / scale).clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn), scale
