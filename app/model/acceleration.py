"""What makes a model faster, put on its transformers when a rank has loaded them.

Attention backend and compilation change the order of sums, and a GPU has them unless told otherwise; FP8 linear layers
and the step cache lose some quality, and are there where asked for. What a device cannot do is refused by name when the
rank starts, never left out in silence.
"""

import logging
import os
import shutil
import time
from typing import Any

import torch
from diffusers import TaylorSeerCacheConfig
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn
from torch import nn
from torch.nn.attention import activate_flash_attention_impl, restore_flash_attention_impl

from app.config import ConfigError, ModelOptions

_log = logging.getLogger(__name__)

_FLASH_IMPLEMENTATIONS = {"fa3": "FA3", "fa4": "FA4"}
"""FlashAttention-3 and -4: packages of their own (flash_attn_interface, flash-attn-4) bring them, and torch then runs
them in place of its own flash attention, in the whole process."""
_CANDIDATES = {
    "cpu": ("native",),
    "cuda": ("native", "_native_cudnn", "_native_flash", "flash", *_FLASH_IMPLEMENTATIONS),
}
"""Attention backends that also work split over ranks and are here without a download, by device: those of diffusers,
and the implementations above."""
_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max
_FP8_CAPABILITY = (8, 9)


def compiles(options: ModelOptions, device: torch.device) -> bool:
    """Return whether blocks are to be compiled: as set, or on a GPU."""
    return options.compile_blocks == "always" or (options.compile_blocks == "auto" and device.type == "cuda")


def apply(options: ModelOptions, transformers: list[Any], device: torch.device, *, compiled: bool) -> str:
    """Apply ``options`` to ``transformers``, with or without compiled blocks; return their attention backend.

    Raises:
        ConfigError: the device cannot do what is asked; names the setting and what it can.
    """
    attention = _set_attention(options.attention_backend, transformers, device)
    if options.fp8_linear:
        _check_fp8(device)
        for transformer in transformers:
            use_fp8_linear(transformer)
    if options.step_cache == "taylorseer":
        for transformer in transformers:
            # Which steps are computed follows from their number alone: all ranks of a plan agree without a word.
            transformer.enable_cache(
                TaylorSeerCacheConfig(
                    cache_interval=options.step_cache_interval,
                    disable_cache_before_step=options.step_cache_warm_up,
                    max_order=1,
                    taylor_factors_dtype=transformer.dtype,
                    use_lite_mode=True,
                )
            )
    if compiled:
        _check_compiler()
        for block in (block for transformer in transformers for block in transformer.blocks):
            # Not block.compile(): what is hooked on a block later (a split sequence) would be compiled with it.
            block.forward = torch.compile(block.forward)
    return attention


def _check_compiler() -> None:
    names = (os.environ.get("CXX") or "g++", os.environ.get("CC") or "gcc", "clang")
    if not any(map(shutil.which, names)):
        raise ConfigError(
            "compile_blocks: torch.compile needs a C++ compiler, and none is on PATH; install g++ and Python's headers "
            "(the project's own image has both), or set compile_blocks to never"
        )


def begin_request(transformers: list[Any]) -> None:
    """Forget what a step cache kept of the request before, which may have been cancelled halfway."""
    for transformer in transformers:
        if transformer.is_cache_enabled:
            transformer._reset_stateful_cache()


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
    """Return diffusers' name of the attention backend ``name``, the implementation that it needs active in torch."""
    restore_flash_attention_impl(_raise_warn=False)
    if name not in _FLASH_IMPLEMENTATIONS:
        return name
    activate_flash_attention_impl(_FLASH_IMPLEMENTATIONS[name])
    return "_native_flash"


def fastest_attention(heads: int, device: torch.device, *, tokens: int = 32768, head_size: int = 128) -> str:
    """Return the attention backend that is fastest here, by trying each; one that does not run is passed over."""
    if device.type == "cpu":
        tokens = 256
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    query = torch.randn(1, tokens, heads, head_size, dtype=dtype, device=device)
    seconds: dict[str, float] = {}
    for name in _CANDIDATES[device.type]:
        try:
            with attention_backend(_activated(name)), torch.inference_mode():
                seconds[name] = min(_timed(query, device) for _ in range(5))
        # What a package that compiles its kernels here may raise is not ours to list.
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
    """Replace the linear layers in the blocks of ``transformer``; return how many there were."""
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
    """A linear layer whose weight and input are 8-bit floats (E4M3), each row with a scale of its own."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _quantized(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = linear.bias

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        rows, scale = _quantized(values.reshape(-1, values.shape[-1]))
        product = torch._scaled_mm(
            rows, self.weight.t(), scale_a=scale, scale_b=self.scale, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        result = product.to(values.dtype).reshape(*values.shape[:-1], -1)
        return result if self.bias is None else result + self.bias


def _quantized(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = rows.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / _FP8_MAX
    return (rows.float() / scale).clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn), scale
