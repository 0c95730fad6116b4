"""The pipeline of one rank: loads a Wan folder and runs requests together with the other ranks of a process group."""

import inspect
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline, WanImageToVideoPipeline, WanPipeline
from numpy.typing import NDArray

from app.config import ConfigError, ModelOptions
from app.media.images import fitted, grey
from app.model import acceleration, offload
from app.model.decoding import pieces
from app.model.denoise import Denoising, State, StepCache, experts, prepare
from app.model.folder import ModelFolder, resolve, unreadable
from app.model.meta import rank_dtypes
from app.model.transformer_parallel import Parallelism
from app.model.vae_parallel import check_shardable
from app.model.weight_files import check_finite, check_weights, needed_variant
from app.plan import Plan, request_plan
from app.tasks.task_config import TaskConfig
from app.text import first_line

_log = logging.getLogger(__name__)


class NotFiniteError(Exception):
    """Denoising made latents with a NaN or an infinity in them; raised by every rank."""

    def __init__(self) -> None:
        super().__init__(
            "denoising ended in NaN or infinite numbers, which make no picture; if every task fails like this, "
            "the model's weights are damaged: download them again"
        )


class Pipeline:
    """A loaded model on one device.

    Args:
        model_path: a diffusers Wan folder or hub id.
        device: where it computes.
        options: how it computes; the defaults if left out.
        ranks: how many ranks will share a request; decides whether the weights must be offloaded.

    Raises:
        ConfigError: the folder is incomplete or not a Wan pipeline, the device cannot do what ``options`` ask for, or
            the installed version of diffusers is not supported.
    """

    def __init__(
        self, model_path: str, device: torch.device, options: ModelOptions | None = None, ranks: int = 1
    ) -> None:
        self.model = ModelFolder.read(model_path)
        self._device = device
        self._parallelism: Parallelism | None = None
        self._denoising: Denoising | None = None
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._options = options = options or ModelOptions()
        self._offloaded = offloaded = offload.is_needed(options, self.model, ranks, device)
        self._pipeline = _load(
            self.model, resolve(model_path), torch.device("cpu") if offloaded else device, device.type
        )
        self._transformers = [
            part for part in (self._pipeline.transformer, getattr(self._pipeline, "transformer_2", None)) if part
        ]
        self._compiled = acceleration.compiles(options, device)
        self.attention = acceleration.apply(options, self._transformers, device, compiled=self._compiled)
        self._cache: StepCache | None = None
        if options.step_cache == "taylorseer":
            self._cache = StepCache(options.step_cache_interval, options.step_cache_warm_up)
        if offloaded:
            offload.offload(self._pipeline, self._transformers, device)
        check_shardable(self._pipeline.vae.decoder)

    def refusal(self, ranks: int) -> str | None:
        """Return the reason why this rank cannot be part of a gang of ``ranks`` ranks; None if it can."""
        return None if self._offloaded else offload.refusal(self._options, self.model, ranks, self._device)

    def join(self, store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> None:
        """Enter a process group of ``world_size`` ranks; call ``leave`` first if the rank is in one.

        It returns when every rank has joined.

        Args:
            store: the key-value store by which the ranks find each other.
            rank: this process' rank in the group.
            world_size: the number of ranks.
            timeout: how long any collective may take before it fails.
        """
        # gloo serves small agreements between the ranks on the CPU, which must not wait for the GPU's queue.
        backend = "cpu:gloo,cuda:nccl" if self._device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        self._parallelism = Parallelism(self._device)
        dist.barrier() if self._device.type == "cpu" else dist.barrier(device_ids=[self._device.index or 0])

    def leave(self) -> None:
        """Leave the process group if there is one; the model stays loaded."""
        if self._parallelism is not None:
            self._parallelism.remove(self._transformers)
            self._parallelism = None
        if dist.is_initialized():
            dist.destroy_process_group()

    def plan(self, config: TaskConfig) -> Plan:
        """Return how this process group splits the request."""
        tokens = self.model.tokens(config.width, config.height, config.num_frames)
        return request_plan(dist.get_world_size(), self.model.heads, tokens, config.guided)

    def share(self, make: Callable[[], bytes]) -> bytes:
        """Call ``make`` on rank 0 only; return its result, or raise its exception, on every rank.

        If only one rank failed, the others would block in the next collective until the gang counts as hung.
        """
        box: list[Any] = [None]
        if dist.get_rank() == 0:
            try:
                box = [make()]
            except Exception as error:
                box = [error]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        if isinstance(box[0], Exception):
            raise box[0]
        return bytes(box[0])

    def generate(
        self, config: TaskConfig, on_step: Callable[[int], bool], image: bytes | None = None
    ) -> NDArray[np.uint8] | None:
        """Run one request as ``stream`` does; return all frames, (frames, height, width, 3), on rank 0, else None."""
        found = self.stream(config, on_step, image)
        return None if found is None else np.concatenate(list(found))

    def stream(
        self,
        config: TaskConfig,
        on_step: Callable[[int], bool],
        image: bytes | None = None,
        resume: State | None = None,
    ) -> Iterator[NDArray[np.uint8]] | None:
        """Run one request; every rank of the group must call this with the same ``config``.

        If decoding is parallel, ranks other than 0 return only after rank 0's caller has consumed the iterator.

        Args:
            config: a completed request.
            on_step: called after each denoising step with the number of finished steps; all ranks stop if it returns
                False on rank 0. It may call ``state``.
            image: the encoded picture from which the video begins, if the model takes one; the same on every rank.
            resume: go on from this state of the same request, taken on any rank of any gang, instead of from noise; the
                same on every rank.

        Returns:
            on rank 0, an iterator that decodes the frames in pieces of (frames, height, width, 3), uint8, RGB; None on
            the other ranks.

        Raises:
            DistError: a rank other than 0 failed to decode.
            CancelledError: ``on_step`` returned False on rank 0; raised by every rank after the same step.
            NotFiniteError: the latents cannot be decoded.
        """
        latents = self._denoise(config, on_step, image, resume)
        if not _agreed(bool(torch.isfinite(latents).all())):
            raise NotFiniteError
        rank = dist.get_rank()
        found = pieces(self._pipeline.vae, latents, rank, self._decoders())
        if rank == 0:
            return found
        try:
            for _ in found:
                pass
        except Exception as error:
            # Raise DistError rather than a task error: ranks that failed at different points are out of step, and the
            # gang must be rebuilt.
            raise dist.DistError(f"rank {rank} failed to decode: {type(error).__name__}: {error}") from error
        return None

    def state(self) -> State:
        """Return what ``stream`` needs to go on after the last finished step of the request that is being denoised.

        It is the same on every rank. It copies no tensor and may be called in each step.
        """
        if self._denoising is None:
            raise RuntimeError("no request is being denoised: state is for the callback on_step")
        return self._denoising.state()

    def _decoders(self) -> int:
        """Return the number of ranks that share the decoding of a video."""
        # CPU kernels round differently in a vector's tail, and splitting rows moves the tails. On a CPU we prefer
        # bit-identical frames to speed.
        return 1 if self._device.type == "cpu" else dist.get_world_size()

    def warm_up(self) -> None:
        """Compile the blocks for the model's default video by making it in two steps; do nothing without compilation.

        A task of that size then begins without compiling. Two steps are the fewest that run both experts. Every rank of
        the group must call this.
        """
        if not self._compiled:
            return
        defaults = self.model.defaults
        config = self.model.default_task(num_inference_steps=2)
        image = grey(defaults.width, defaults.height) if self.model.image == "required" else None
        self.generate(config, lambda _: True, image)

    @torch.inference_mode()
    def _denoise(
        self, config: TaskConfig, on_step: Callable[[int], bool], image: bytes | None, resume: State | None
    ) -> torch.Tensor:
        if self._parallelism is None:
            raise RuntimeError("the rank has no process group: join comes before generate")
        self._parallelism.apply(self.plan(config), self._transformers)
        pipeline = self._pipeline_for(image is not None)
        picture = None if image is None else fitted(image, config.width, config.height)
        # A generator on the CPU gives the same noise on every rank and on every kind of device.
        generator = torch.Generator("cpu").manual_seed(config.seed)
        inputs = prepare(pipeline, config, self._device, generator, picture)
        scheduler = self._scheduler(config)
        self._denoising = Denoising(
            inputs, scheduler, experts(pipeline, config, scheduler), generator, self._cache, self._parallelism.cfg_group
        )
        if resume is not None:
            self._denoising.resume(resume)
        try:
            return self._denoising.run(lambda step: _agreed(on_step(step)))
        finally:
            # Decoding needs the memory of what the steps kept.
            self._denoising = None

    def _scheduler(self, config: TaskConfig) -> Any:
        """Return a scheduler for one request, made from the loaded one, which keeps the folder's settings."""
        loaded = self._pipeline.scheduler
        changes = {} if config.flow_shift is None else {"flow_shift": config.flow_shift}
        scheduler = type(loaded).from_config(loaded.config, **changes)
        scheduler.set_timesteps(config.num_inference_steps, device=self._device)
        return scheduler

    def _pipeline_for(self, image: bool) -> Any:
        """Return a pipeline that begins from an image or from text alone.

        If the model can do both, the other class is made around the loaded modules, without copying them.
        """
        if self.model.image != "optional":
            return self._pipeline
        kind = WanImageToVideoPipeline if image else WanPipeline
        if isinstance(self._pipeline, kind):
            return self._pipeline
        taken = inspect.signature(kind).parameters
        modules = {name: module for name, module in self._pipeline.components.items() if name in taken}
        return kind(**modules, expand_timesteps=True)


def _agreed(decision: bool) -> bool:
    """Return rank 0's ``decision`` on every rank, so that all of them go on or all of them stop."""
    box = torch.tensor([int(decision)])
    dist.broadcast(box, src=0)
    return bool(box.item())


def _load(model: ModelFolder, folder: Path, device: torch.device, computes_on: str) -> Any:
    """Load a diffusers pipeline to ``device``, in the dtypes of a rank that computes on ``computes_on`` (cuda or cpu).

    Raises:
        ConfigError: the folder does not load, its weights are not those of the model, or the GPU's memory does not hold
            the model.
    """
    try:
        variant = needed_variant(model, folder)
        check_weights(model, folder, variant)
        # Directly to the device: a copy for each rank in host memory first would be hundreds of GB for 8 ranks.
        pipeline = DiffusionPipeline.from_pretrained(
            folder, variant=variant, dtype=rank_dtypes(computes_on), device_map=device.type
        )
    except ConfigError:
        raise
    except PermissionError as error:
        raise unreadable(folder, error) from error
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"offload_weights: the GPU's memory does not hold this model ({str(error).splitlines()[0]}); set it "
            "to auto or always, use a smaller model, or end the other processes on the GPU"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = first_line(error) or type(error).__name__
        raise ConfigError(
            f"MODEL_PATH: {folder} does not load as a diffusers pipeline: {reason}; download or save it again"
        ) from error
    # Broken weights of the other components show in the latents; those of the decoder show in no number.
    check_finite("vae", folder, pipeline.vae)
    return pipeline.to(device)
