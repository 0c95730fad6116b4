"""One rank's pipeline: loads a Wan folder and runs a request together with the other ranks of its process group."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from app.config import ConfigError
from app.model_folder import ModelFolder, resolve
from app.parallel import Parallelism
from app.plan import Plan, request_plan

_log = logging.getLogger(__name__)


class CancelledError(Exception):
    """The ranks agreed to stop at a step's end."""


class Pipeline:
    """A loaded model on one device.

    Args:
        model_path: a diffusers Wan folder or hub id.
        device: where it computes.

    Raises:
        ConfigError: the folder is incomplete or no Wan pipeline.
    """

    def __init__(self, model_path: str, device: torch.device) -> None:
        self.model = ModelFolder.read(model_path)
        self._device = device
        self._parallelism: Parallelism | None = None
        self._pipeline = _load(resolve(model_path), device)
        self._transformers = [
            part for part in (self._pipeline.transformer, getattr(self._pipeline, "transformer_2", None)) if part
        ]

    def join(self, store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> None:
        """Enter a process group; ``leave`` the one before first."""
        # Small agreements between the ranks are made on the CPU: they must not wait for the GPU's queue.
        backend = "cpu:gloo,cuda:nccl" if self._device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
        self._parallelism = Parallelism(self._device)
        dist.barrier() if self._device.type == "cpu" else dist.barrier(device_ids=[self._device.index or 0])

    def leave(self) -> None:
        """Leave the process group, if there is one; the model stays loaded."""
        if self._parallelism is not None:
            self._parallelism.remove(self._transformers)
            self._parallelism = None
        if dist.is_initialized():
            dist.destroy_process_group()

    def plan(self, config: dict[str, Any]) -> Plan:
        """Return how this process group splits the request."""
        tokens = self.model.tokens(config["width"], config["height"], config["num_frames"])
        return request_plan(dist.get_world_size(), self.model.heads, tokens, config["guidance_scale"] > 1)

    @torch.inference_mode()
    def generate(self, config: dict[str, Any], on_step: Callable[[int], bool]) -> NDArray[np.uint8] | None:
        """Run one request; every rank of the group calls this with the same config.

        Args:
            config: a completed request.
            on_step: called with the number of finished steps; rank 0's answer says whether all go on.

        Returns:
            the frames (frames, height, width, 3) on rank 0, None on the others.

        Raises:
            CancelledError: rank 0 said stop; raised by every rank at the same step.
        """
        if self._parallelism is None:
            raise RuntimeError("the rank has no process group: join comes before generate")
        self._parallelism.apply(self.plan(config), self._transformers)
        speaks = dist.get_rank() == 0

        def step_end(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            go_on = torch.tensor([int(on_step(step + 1))])
            dist.broadcast(go_on, src=0)
            if not go_on.item():
                raise CancelledError
            return tensors

        fields = ("prompt", "negative_prompt", "width", "height", "num_frames", "num_inference_steps", "guidance_scale")
        arguments = {name: config[name] for name in fields}
        if self.model.two_experts:
            arguments["guidance_scale_2"] = config["guidance_scale_2"]
        result = self._pipeline(
            **arguments,
            # A CPU generator gives the same noise on every rank and every kind of device.
            generator=torch.Generator("cpu").manual_seed(config["seed"]),
            callback_on_step_end=step_end,
            output_type="pt" if speaks else "latent",
        )
        return _to_uint8(result.frames[0]) if speaks else None


def _load(folder: Any, device: torch.device) -> Any:
    # The VAE keeps full precision, as in the model's own example; on a CPU everything does.
    dtypes = {"default": torch.bfloat16, "vae": torch.float32} if device.type == "cuda" else torch.float32
    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtypes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"MODEL_PATH: {folder} does not load as a diffusers pipeline: {reason}; download or save it again"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _to_uint8(video: torch.Tensor) -> NDArray[np.uint8]:
    """Turn (frames, 3, height, width) in 0..1 into (frames, height, width, 3) in 0..255."""
    frames: NDArray[np.uint8] = (video * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return frames
