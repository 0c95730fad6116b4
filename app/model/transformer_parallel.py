"""Puts a plan on the transformers of a pipeline, and takes it off again, inside one process group."""

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
    """The plans of one process group. Every rank applies the same plans in the same order."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meshes: dict[tuple[int, ...], DeviceMesh] = {}
        self._applied: Plan = Plan()

    def apply(self, plan: Plan, transformers: list[Any]) -> None:
        """Make ``transformers`` run by ``plan``; the plan applied before is taken off first.

        A mesh makes process groups, which all ranks must do together; it is kept for the next request like this one.
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
                    # Registered last, so outermost: a branch that is not this rank's own never reaches the split.
                    registry = HookRegistry.check_if_exists_or_initialize(transformer)
                    registry.register_hook(_CfgParallelHook(mesh["cfg"].get_group()), _CFG_HOOK)
                _forget_child_registries(transformer)
        if plan.lengths:
            uneven_ulysses.set_lengths(plan.lengths)
        self._applied = plan

    def remove(self, transformers: list[Any]) -> None:
        """Make ``transformers`` run alone again; nothing to do if they do."""
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
    def reset(self, *args: Any, **kwargs: Any) -> None:
        pass


class _CfgParallelHook(ModelHook):  # type: ignore[misc]
    """Runs one branch of classifier-free guidance on this rank and takes the other from its partner.

    A Wan pipeline calls its transformer twice a step, first within ``cache_context("cond")``, then ``"uncond"``, and
    reads the first result only after the second. So the first call of a rank of branch 1 returns a tensor that is
    filled when the second one has exchanged both results.
    """

    _is_stateful = True

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self._group = group
        self._branch = dist.get_rank(group)
        self._calls = StateManager(_NoState)
        self._cond: torch.Tensor | None = None

    def new_forward(self, module: torch.nn.Module, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
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
        self._cond = None
        return module


def _empty_result(module: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    batch, _, frames, rows, columns = hidden_states.shape
    channels = module.config.out_channels or module.config.in_channels
    return hidden_states.new_empty(batch, channels, frames, rows, columns)


def _forget_child_registries(transformer: torch.nn.Module) -> None:
    HookRegistry.check_if_exists_or_initialize(transformer).invalidate_child_registries_cache()


@contextmanager
def one_device_on_cpu(device: torch.device) -> Iterator[None]:
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
