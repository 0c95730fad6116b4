"""Installs a plan's parallelism on the transformers of a pipeline, and removes it again, inside one process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.context_parallel import remove_context_parallel
from diffusers.hooks.hooks import BaseState, StateManager
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from app.model import uneven_ulysses
from app.plan import Plan

_CFG_HOOK = "wan22_cfg_parallel"


class Parallelism:
    """The parallelism of one process group. Every rank must apply the same plans in the same order."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meshes: dict[tuple[int, ...], DeviceMesh] = {}
        self._applied: Plan = Plan()

    def apply(self, plan: Plan, transformers: list[Any]) -> None:
        """Make ``transformers`` run by ``plan``, after removing the plan that was applied before.

        All ranks must call this together: a device mesh creates process groups, which is a collective operation. The
        mesh is kept for later plans of the same shape.
        """
        if plan == self._applied:
            return
        self.remove(transformers)
        if plan.cfg * plan.ulysses > 1:
            shape = (plan.replicas, plan.cfg, 1, plan.ulysses)
            if shape not in self._meshes:
                self._meshes[shape] = init_device_mesh(
                    self._device.type, shape, mesh_dim_names=("replica", "cfg", "ring", "ulysses")
                )
            mesh = self._meshes[shape]
            for transformer in transformers:
                if plan.ulysses > 1:
                    with one_device_on_cpu(self._device):
                        transformer.enable_parallelism(
                            config=ContextParallelConfig(
                                ulysses_degree=plan.ulysses,
                                ulysses_anything=bool(plan.lengths),
                                mesh=mesh["ring", "ulysses"],
                            )
                        )
                if plan.cfg > 1:
                    # Registered last, so it is the outermost hook: if the branch belongs to another rank, the hook
                    # returns before sequence parallelism splits the input.
                    registry = HookRegistry.check_if_exists_or_initialize(transformer)
                    registry.register_hook(_CfgParallelHook(mesh["cfg"].get_group()), _CFG_HOOK)
                _forget_child_registries(transformer)
        uneven_ulysses.set_lengths(plan.lengths)
        self._applied = plan

    def remove(self, transformers: list[Any]) -> None:
        """Make ``transformers`` run without parallelism again; do nothing if no plan is applied."""
        plan, self._applied = self._applied, Plan()
        for transformer in transformers:
            if plan.cfg > 1:
                HookRegistry.check_if_exists_or_initialize(transformer).remove_hook(_CFG_HOOK)
            if plan.ulysses > 1:
                remove_context_parallel(transformer, transformer._cp_plan)
                transformer._parallel_config = None
                for module in transformer.modules():
                    processor = getattr(module, "processor", None)
                    if processor is not None and hasattr(processor, "_parallel_config"):
                        processor._parallel_config = None
            _forget_child_registries(transformer)


class _NoState(BaseState):  # type: ignore[misc]
    """Nothing is stored per branch: the state manager is used only to read the name of the current cache context."""

    def reset(self, *args: Any, **kwargs: Any) -> None:
        pass


class _CfgParallelHook(ModelHook):  # type: ignore[misc]
    """Runs one branch of guidance on each rank; the first call may return a tensor that only the second call fills.

    Both calls return the prediction, (batch, channels, frames, rows, columns), in the dtype of the latents. A Wan
    pipeline calls its transformer twice in each step, first in ``cache_context("cond")``, then in ``"uncond"``, and
    reads the first result only after the second call::

        call        rank of branch 0                    rank of branch 1
        "cond"      computes cond, returns it           returns cond, empty
        "uncond"    makes uncond, empty                 computes uncond
                    sends cond          ------------->  receives cond: the first call's tensor is filled
                    receives uncond     <-------------  sends uncond
                    returns uncond                      returns uncond
        pipeline    reads cond and uncond               reads cond and uncond

    A pipeline that read the first result before the second call would get uninitialized memory on branch 1. The scheme
    is that of xDiT (arXiv:2411.01738); classifier-free guidance is arXiv:2207.12598.

    Args:
        group: the two ranks that share a request's branches; the rank in this group is the branch.
    """

    # Makes the registry set the cache context of ``self._calls`` and call ``reset_state``.
    _is_stateful = True

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self._group = group
        self._branch = dist.get_rank(group)
        self._calls = StateManager(_NoState)
        self._cond: torch.Tensor | None = None

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        """Run or skip the transformer, as the class describes.

        Raises:
            ValueError: the pipeline wants something else than a tuple (``return_dict``).
            RuntimeError: the unconditional branch was called before the conditional one.
        """
        if kwargs.pop("return_dict", True):
            raise ValueError("CFG parallelism needs a pipeline that calls its transformer with return_dict=False")
        is_cond = self._calls.context.name == "cond"
        mine = is_cond == (self._branch == 0)
        if mine:
            result: torch.Tensor = self.fn_ref.original_forward(*args, **kwargs, return_dict=False)[0].contiguous()
        else:
            result = _empty_result(module, kwargs["hidden_states"])
        if is_cond:
            self._cond = result
            return (result,)
        cond, self._cond = self._cond, None
        if cond is None:
            raise RuntimeError("CFG parallelism: the unconditional branch was called before the conditional one")
        dist.broadcast(cond, group=self._group, group_src=0)
        dist.broadcast(result, group=self._group, group_src=1)
        return (result,)

    def reset_state(self, module: torch.nn.Module) -> torch.nn.Module:
        """Forget the first result of a step that was interrupted between its two calls."""
        self._cond = None
        return module


def _empty_result(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    """Return an uninitialized, contiguous tensor of the shape and dtype that the transformer returns."""
    batch, _, frames, rows, columns = hidden_states.shape
    channels = module.config.out_channels or module.config.in_channels
    return hidden_states.new_empty(batch, channels, frames, rows, columns)


def _forget_child_registries(transformer: torch.nn.Module) -> None:
    """Make diffusers search the transformer's hooks again: it caches them, and a plan adds or removes some."""
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()


@contextmanager
def one_device_on_cpu(device: torch.device) -> Iterator[None]:
    """Let torch report one accelerator if ``device`` is the CPU, so that diffusers' ``enable_parallelism`` works."""
    # enable_parallelism takes the rank modulo torch.accelerator.device_count(), which is 0 without an accelerator.
    if device.type != "cpu":
        yield
        return
    count = torch.accelerator.device_count
    torch.accelerator.device_count = lambda: 1
    try:
        yield
    finally:
        torch.accelerator.device_count = count
