"""Installs a plan's parallelism on the transformers of a pipeline, and removes it again, inside one process group."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.hooks.context_parallel import remove_context_parallel
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from app.model import uneven_ulysses
from app.plan import Plan


class Parallelism:
    """The parallelism of one process group. Every rank must apply the same plans in the same order."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._meshes: dict[tuple[int, ...], DeviceMesh] = {}
        self._applied: Plan = Plan()
        self.cfg_group: dist.ProcessGroup | None = None
        """The two ranks that share the branches of guidance by the applied plan, if it has CFG parallelism. The rank in
        this group is the branch: 0 computes the prompt, 1 the negative prompt."""

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
            if plan.cfg > 1:
                self.cfg_group = mesh["cfg"].get_group()
            for transformer in transformers if plan.ulysses > 1 else ():
                with one_device_on_cpu(self._device):
                    transformer.enable_parallelism(
                        config=ContextParallelConfig(
                            ulysses_degree=plan.ulysses,
                            ulysses_anything=bool(plan.lengths),
                            mesh=mesh["ring", "ulysses"],
                        )
                    )
        uneven_ulysses.set_lengths(plan.lengths)
        self._applied = plan

    def remove(self, transformers: list[Any]) -> None:
        """Make ``transformers`` run without parallelism again; do nothing if no plan is applied."""
        plan, self._applied = self._applied, Plan()
        self.cfg_group = None
        for transformer in transformers if plan.ulysses > 1 else ():
            remove_context_parallel(transformer, transformer._cp_plan)
            transformer._parallel_config = None
            for module in transformer.modules():
                processor = getattr(module, "processor", None)
                if processor is not None and hasattr(processor, "_parallel_config"):
                    processor._parallel_config = None


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
