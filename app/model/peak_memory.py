"""Estimates what one request allocates on a rank besides the weights, by running the real code on the meta device.

After each operation of an eager run, the bytes of all live tensors are summed; the largest sum is the estimate. It does
not contain the workspaces of kernels, the allocator's rounding and fragmentation, and the device's context:
``app.memory`` describes the allowances for them.
"""

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
from diffusers.utils import logging
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from app.model.decoding import decoded
from app.model.denoise import branches
from app.model.folder import ModelFolder
from app.model.meta import meta_module
from app.model.transformer_parallel import Parallelism
from app.model.vae_parallel import RowShard
from app.plan import request_plan

_TEXT_TOKENS = 512


class LivePeak(TorchDispatchMode):
    """Counts the bytes of all storages that are allocated while it is entered.

    ``torch.distributed._tools.mem_tracker.MemTracker`` does the same and more, in a private module of torch.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: int = 0
        """The most bytes that were live at one time."""
        self._live: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size


@torch.inference_mode()
def denoise_peak(model: ModelFolder, ranks: int, width: int, height: int, num_frames: int, guided: bool) -> int:
    """Return the bytes that one denoising step allocates on a rank of a gang of ``ranks``.

    The step runs on a transformer of one layer: in inference a layer keeps nothing after its output, so more layers
    have the same peak.

    Args:
        model: the model.
        ranks: the size of the gang.
        width: pixels.
        height: pixels.
        num_frames: frames of the video.
        guided: whether the step has a conditional and an unconditional branch.
    """
    tokens = model.tokens(width, height, num_frames)
    transformer = meta_module(model, "transformer", num_layers=1)
    config = transformer.config
    shape = _latent_shape(model, width, height, num_frames, config.in_channels)
    dtype = next(transformer.patch_embedding.parameters()).dtype
    latents = torch.empty(shape, dtype=dtype, device="meta")
    text = torch.empty(1, _TEXT_TOKENS, config.text_dim, dtype=dtype, device="meta")
    timestep = torch.empty((1, tokens) if model.image == "optional" else (1,), device="meta")
    with _world(ranks), _quiet(), LivePeak() as watch:
        parallelism = Parallelism(torch.device("cpu"))
        parallelism.apply(request_plan(ranks, model.heads, tokens, guided), [transformer])
        branches(transformer, latents, timestep, (text, text) if guided else (text,), parallelism.cfg_group)
    return int(watch.peak)


def decode_peak(model: ModelFolder, width: int, height: int, num_frames: int, ranks: int = 1) -> int:
    """Return the bytes that decoding the latents allocates on rank 0 of ``ranks``; no other rank has more rows."""
    peak = partial(_decode_peak, ranks=ranks)
    return _by_latent_frames(peak, model, width, height, model.latent_frames(num_frames))


def encode_peak(model: ModelFolder, width: int, height: int, num_frames: int) -> int:
    """Return the bytes that encoding the request's image allocates on every rank; 0 if the model takes no image."""
    if model.image == "none":
        return 0
    # TI2V-5B encodes the image alone; I2V-A14B encodes it followed by empty frames up to the video's length.
    frames = 1 if model.image == "optional" else model.latent_frames(num_frames)
    return _by_latent_frames(_encode_peak, model, width, height, frames)


@cache
@torch.inference_mode()
def _decode_peak(model: ModelFolder, width: int, height: int, latent_frames: int, ranks: int = 1) -> int:
    vae = meta_module(model, "vae")
    frames = (latent_frames - 1) * model.temporal_scale + 1
    latents = torch.empty(_latent_shape(model, width, height, frames, vae.config.z_dim), device="meta")
    with _world(ranks), LivePeak() as watch:
        for _ in decoded(vae, latents, RowShard.split(latents.shape[3], 0, ranks)):
            pass
    return int(watch.peak)


@cache
@torch.inference_mode()
def _encode_peak(model: ModelFolder, width: int, height: int, latent_frames: int) -> int:
    vae = meta_module(model, "vae")
    frames = (latent_frames - 1) * model.temporal_scale + 1
    with LivePeak() as watch:
        vae.encode(torch.empty(1, 3, frames, height, width, device="meta"), return_dict=False)
    return int(watch.peak)


def _by_latent_frames(
    peak: Callable[[ModelFolder, int, int, int], int], model: ModelFolder, width: int, height: int, latent_frames: int
) -> int:
    # The VAE processes one latent frame at a time. From the third on, each adds the same number of bytes to the peak,
    # so four frames are enough to extrapolate.
    if latent_frames <= 4:
        return peak(model, width, height, latent_frames)
    third, fourth = (peak(model, width, height, frames) for frames in (3, 4))
    return fourth + (latent_frames - 4) * (fourth - third)


def _latent_shape(model: ModelFolder, width: int, height: int, num_frames: int, channels: int) -> tuple[int, ...]:
    rows, columns = height // model.spatial_scale, width // model.spatial_scale
    return (1, channels, model.latent_frames(num_frames), rows, columns)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress diffusers' warnings about its parallelism, which do not matter in a dry run."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def _world(ranks: int) -> Iterator[None]:
    """Make this process rank 0 of a fake process group of ``ranks`` ranks, whose collectives return immediately."""
    if ranks == 1:
        yield
        return
    # torch provides the fake backend for dry runs like this one, but no public name for its store.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("cpu:fake,meta:fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
