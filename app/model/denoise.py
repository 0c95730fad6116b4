"""The denoising loop: the steps of one request from noise to the latents of its video, over diffusers' modules.

diffusers encodes the texts and the image, draws the noise and computes one step of the scheduler. This module does what
is between these: it chooses the expert, calls the transformer for both branches of guidance, alone or on two ranks, and
predicts the steps that the step cache leaves out. The operations are those of ``WanPipeline.__call__`` and
``WanImageToVideoPipeline.__call__`` of diffusers 0.42 in the same order, so the latents are the same bit for bit.

All that a step leaves for the next one is in a ``State``, complete on every rank and independent of the plan by which
the ranks share the work. A request can go on from it in other processes, on another number of ranks.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist
from PIL import Image

from app.tasks.task_config import TaskConfig

_TEXT_TOKENS = 512
"""Tokens of each text; longer ones are cut, shorter ones are filled with zeros."""

Outputs = tuple[torch.Tensor, ...]
"""What a transformer returns for one step: for the prompt and, if the request is guided, for the negative prompt."""


class CancelledError(Exception):
    """All ranks agreed to stop the request after a denoising step."""


@dataclass(frozen=True)
class Inputs:
    """What every step of a request reads, and the noise from which the first one begins.

    Which of ``condition`` and ``mask`` there are says how the model begins from an image: without ``condition`` there
    is no image. I2V-A14B has no mask; its condition is appended to the channels of the latents. TI2V-5B has a mask, by
    which the condition takes the place of the first latent frame, and each token has its own timestep.
    """

    noise: torch.Tensor
    """(1, channels, frames, rows, columns), float32."""
    texts: tuple[torch.Tensor, ...]
    """The encoded prompt and, if the request is guided, the negative prompt: (1, tokens, channels) each."""
    condition: torch.Tensor | None = None
    """The encoded image: (1, channels, frames, rows, columns), or one frame of these if there is a mask."""
    mask: torch.Tensor | None = None
    """(1, 1, frames, rows, columns), float32: 1 for what is denoised, 0 for what the condition gives."""
    image: torch.Tensor | None = None
    """The image as Wan2.1's image encoder sees it; None for the models of Wan2.2, which have none."""


def prepare(
    pipeline: Any, config: TaskConfig, device: torch.device, generator: torch.Generator, picture: Image.Image | None
) -> Inputs:
    """Encode the texts and the picture of a request and draw its noise, by the methods of a diffusers pipeline.

    Args:
        pipeline: a WanImageToVideoPipeline if there is a picture, else a WanPipeline.
        config: the request.
        device: where the transformer computes.
        generator: draws the noise.
        picture: the picture from which the video begins, in the size of the video.
    """
    transformer = pipeline.transformer
    texts = pipeline.encode_prompt(
        prompt=config.prompt,
        negative_prompt=config.negative_prompt,
        do_classifier_free_guidance=config.guided,
        max_sequence_length=_TEXT_TOKENS,
        device=device,
    )
    texts = tuple(text.to(transformer.dtype) for text in texts if text is not None)
    size = {"height": config.height, "width": config.width}
    shape: dict[str, Any] = size | {
        "num_frames": config.num_frames,
        "dtype": torch.float32,
        "device": device,
        "generator": generator,
    }
    if picture is None:
        noise = pipeline.prepare_latents(1, transformer.config.in_channels, **shape)
        mask = torch.ones(1, 1, *noise.shape[2:], device=device) if pipeline.config.expand_timesteps else None
        return Inputs(noise, texts, mask=mask)
    image = None
    if transformer.config.image_dim is not None:
        image = pipeline.encode_image(picture, device).to(transformer.dtype)
    pixels = pipeline.video_processor.preprocess(picture, **size).to(device, torch.float32)
    noise, condition, *masks = pipeline.prepare_latents(pixels, 1, pipeline.vae.config.z_dim, **shape)
    return Inputs(noise, texts, condition, masks[0] if masks else None, image)


@dataclass(frozen=True, eq=False)
class Expert:
    """A transformer and the scale of its guidance."""

    transformer: Any
    guidance_scale: float
    dtype: torch.dtype
    """The transformer's. diffusers looks through all its modules for it, which is too slow for every step."""


def experts(pipeline: Any, config: TaskConfig, scheduler: Any) -> list[Expert]:
    """Return the expert of each step: with two experts, the second one takes the steps of little noise."""
    first = Expert(pipeline.transformer, config.guidance_scale, pipeline.transformer.dtype)
    if pipeline.config.boundary_ratio is None:
        return [first] * len(scheduler.timesteps)
    scale = config.guidance_scale if config.guidance_scale_2 is None else config.guidance_scale_2
    second = Expert(pipeline.transformer_2, scale, pipeline.transformer_2.dtype)
    boundary = pipeline.config.boundary_ratio * scheduler.config.num_train_timesteps
    return [first if time >= boundary else second for time in scheduler.timesteps.tolist()]


def branches(
    transformer: Any,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    texts: tuple[torch.Tensor, ...],
    group: dist.ProcessGroup | None,
    image: torch.Tensor | None = None,
) -> Outputs:
    """Run ``transformer`` for every text and return its outputs, (1, channels, frames, rows, columns) each.

    Args:
        transformer: a WanTransformer3DModel.
        latents: its input, in its dtype.
        timestep: one timestep, or one for each token: (1,) or (1, tokens).
        texts: the encoded texts.
        group: two ranks that share two texts, each of which computes one, and then exchange the outputs (CFG
            parallelism, xDiT, arXiv:2411.01738); None to compute all of them here.
        image: as in ``Inputs``.
    """

    def output(text: torch.Tensor) -> torch.Tensor:
        (result,) = transformer(
            hidden_states=latents,
            timestep=timestep,
            encoder_hidden_states=text,
            encoder_hidden_states_image=image,
            return_dict=False,
        )
        found: torch.Tensor = result
        return found

    if group is None:
        return tuple(map(output, texts))
    own = output(texts[dist.get_rank(group)]).contiguous()
    outputs = [torch.empty_like(own) for _ in texts]
    dist.all_gather(outputs, own, group=group)
    return tuple(outputs)


@dataclass(frozen=True)
class StepCache:
    """TaylorSeer (arXiv:2503.06923) of first order at a fixed interval: which steps are computed.

    The number of a step alone decides, so all ranks agree without a message. An expert's steps count from 0 on. The
    rule is that of diffusers 0.42, whose lite mode makes the same videos bit for bit.
    """

    interval: int
    """Compute one step out of so many, after the warm-up."""
    warm_up: int
    """The number of steps that an expert computes first."""

    def computes(self, step: int) -> bool:
        """Return True if an expert computes its ``step``, False if it is predicted."""
        return step < self.warm_up or (step - self.warm_up - 1) % self.interval == 0


@dataclass(frozen=True)
class Trend:
    """A transformer's outputs at the step that was computed last, and their change a step since the one before."""

    step: int
    values: Outputs
    slopes: Outputs
    """Empty if only one step was computed."""

    @classmethod
    def of(cls, step: int, values: Outputs, before: Self | None) -> Self:
        """Return the trend once ``step`` was computed, given the trend before it."""
        if before is None:
            return cls(step, values, ())
        steps = step - before.step
        slopes = [(value - earlier) / steps for value, earlier in zip(values, before.values, strict=True)]
        return cls(step, values, tuple(slopes))

    def at(self, step: int) -> Outputs:
        """Predict the outputs of a later step."""
        steps = step - self.step
        if not self.slopes:
            return self.values
        return tuple(value + slope * steps for value, slope in zip(self.values, self.slopes, strict=True))


@dataclass(frozen=True)
class State:
    """All that the steps after ``step`` need besides the request: numbers, tensors, and lists of these.

    Nothing writes into its tensors; later steps make new ones. They are on the device of the loop.
    """

    step: int
    """The number of finished steps."""
    latents: torch.Tensor
    """(1, channels, frames, rows, columns), float32."""
    scheduler: dict[str, Any]
    """The variables of the scheduler that its steps change, by name."""
    generator: torch.Tensor
    """The state of the random numbers, from which some schedulers draw in each step."""
    trend: Trend | None
    """What the step cache predicts from; None without a step cache."""


class Denoising:
    """The steps of one request. Every rank of its process group runs the same ones.

    Args:
        inputs: what ``prepare`` returned.
        scheduler: a scheduler for this request alone, with its timesteps set.
        experts: the expert of each step.
        generator: the random numbers after the noise was drawn.
        cache: predict some steps; None to compute all.
        group: as in ``branches``.
    """

    def __init__(
        self,
        inputs: Inputs,
        scheduler: Any,
        experts: list[Expert],
        generator: torch.Generator,
        cache: StepCache | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._inputs = inputs
        self._scheduler = scheduler
        self._experts = experts
        self._generator = generator
        self._cache = cache
        self._group = group
        # The first timestep has index 0. Without this, the scheduler would search for it, which waits for the GPU.
        scheduler.set_begin_index(0)
        self._scheduler_at_start = _variables(scheduler)
        # A scheduler that draws noise must draw the same on every rank.
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self._scheduler_arguments = {"generator": generator} if takes_generator else {}
        self._step = 0
        self._latents = inputs.noise
        self._trend: Trend | None = None

    def run(self, go_on: Callable[[int], bool]) -> torch.Tensor:
        """Run all steps that are left and return the latents of the video, (1, channels, frames, rows, columns).

        Args:
            go_on: called after each step with the number of finished steps; must return the same on every rank.

        Raises:
            CancelledError: ``go_on`` returned False.
        """
        while self._step < len(self._experts):
            self._run_step()
            if not go_on(self._step):
                raise CancelledError
        return self._with_given_frame()

    def state(self) -> State:
        """Return what ``resume`` needs to go on after the last finished step. It copies no tensor."""
        changed = {
            name: value
            for name, value in _variables(self._scheduler).items()
            if name not in self._scheduler_at_start or not _is_same(value, self._scheduler_at_start[name])
        }
        return State(self._step, self._latents, changed, self._generator.get_state(), self._trend)

    def resume(self, state: State) -> None:
        """Go on from the state of a loop over the same request, also of another process; the plan may be another."""
        device = self._inputs.noise.device
        self._step = state.step
        self._latents = state.latents.to(device)
        for name, value in state.scheduler.items():
            setattr(self._scheduler, name, _moved(value, device))
        self._generator.set_state(state.generator)
        trend = state.trend
        self._trend = trend and Trend(trend.step, _moved(trend.values, device), _moved(trend.slopes, device))

    def _run_step(self) -> None:
        expert = self._experts[self._step]
        time = self._scheduler.timesteps[self._step]
        output, *negative = self._outputs(expert, time)
        if negative:
            output = negative[0] + expert.guidance_scale * (output - negative[0])
        (self._latents,) = self._scheduler.step(
            output, time, self._latents, return_dict=False, **self._scheduler_arguments
        )
        self._step += 1

    def _outputs(self, expert: Expert, time: torch.Tensor) -> Outputs:
        """Compute or predict the outputs of the step's transformer."""
        if self._cache is None:
            return self._computed(expert, time)
        begin = self._experts.index(expert)
        trend = self._trend if self._trend is not None and self._trend.step >= begin else None
        if trend is not None and not self._cache.computes(self._step - begin):
            return trend.at(self._step)
        outputs = self._computed(expert, time)
        self._trend = Trend.of(self._step, outputs, trend)
        return outputs

    def _computed(self, expert: Expert, time: torch.Tensor) -> Outputs:
        inputs = self._inputs
        latents = self._latents
        timestep = time.expand(1)
        if inputs.mask is not None:
            latents = self._with_given_frame()
            # A token is a square of two rows and two columns.
            timestep = (inputs.mask[0, 0, :, ::2, ::2] * time).flatten().unsqueeze(0)
        elif inputs.condition is not None:
            latents = torch.cat([latents, inputs.condition], dim=1)
        latents = latents.to(expert.dtype)
        return branches(expert.transformer, latents, timestep, inputs.texts, self._group, inputs.image)

    def _with_given_frame(self) -> torch.Tensor:
        """Return the latents. If the image gives a frame, it replaces the one that was denoised with the others."""
        mask, condition = self._inputs.mask, self._inputs.condition
        if mask is None or condition is None:
            return self._latents
        return (1 - mask) * condition + mask * self._latents


def _variables(scheduler: Any) -> dict[str, Any]:
    """Return the variables of a scheduler. Its lists are copied, since it writes into them."""
    return {name: list(value) if isinstance(value, list) else value for name, value in vars(scheduler).items()}


def _is_same(value: Any, other: Any) -> bool:
    """Return True if both are the same object, or lists of the same objects."""
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_is_same, value, other))
    return value is other


def _moved(value: Any, device: torch.device) -> Any:
    """Return ``value`` with its tensors on ``device``."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return type(value)(_moved(one, device) for one in value) if isinstance(value, (list, tuple)) else value
