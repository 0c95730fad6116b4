"""The values that serveConfigV2 is rendered from. They check that a plan exists and that a pod holds its share."""

from typing import Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from app.config import AppArgs, AppOptions, Device, Environment, GangCount, RankCount
from app.plan import NoPlanError, gang_plan, worker_pods
from serve_config.pod_budget import PodBudget, milli

_OUTSIDE_APP = {
    "total_workers": "totalWorkers",
    "gangs": "gangs",
    "gpus_per_worker": "gpusPerWorker",
    "worker_cpus": "worker.resources.limits.cpu",
    "device": "device",
    "attention_heads": "model.attentionHeads",
}


def chart_value(field: str) -> str:
    """Return the chart's value of the same meaning as a field of ``ServeValues``: ``app.stepCache`` for step_cache."""
    return _OUTSIDE_APP.get(field) or f"app.{to_camel(field)}"


class ServeValues(AppOptions):
    """The values of one deployment. Messages also give the name of the chart's value of the same meaning.

    A pod is sized so that APIEntrypoint always fits next to its ranks, wherever Ray puts leaders and whatever the
    counts are later resized to: a leader only runs on a pod with ranks of its gang, so a pod holds at most one leader
    per rank.
    """

    total_workers: RankCount = Environment.model_fields["total_workers"].default
    """Ranks of one gang (totalWorkers)."""
    gangs: GangCount = AppArgs.model_fields["gangs"].default
    """VideoGenerator replicas (gangs)."""
    gpus_per_worker: int = Field(1, ge=0, le=64)
    """GPUs of a worker pod (gpusPerWorker); 0 for a CPU pod, which holds one rank."""
    worker_cpus: int = Field(8, ge=1)
    """CPU limit of a worker pod (worker.resources.limits.cpu), which KubeRay reports to Ray as the pod's CPUs."""
    device: Device | None = None
    """What ranks compute on; left out, cuda if pods have GPUs, else cpu."""
    attention_heads: int | None = Field(None, ge=1)
    """Attention heads of the model (model.attentionHeads), if they are known beforehand."""
    # The sizes of a pod are computed in thousandths of a CPU.
    api_cpus: float = Field(AppArgs.model_fields["api_cpus"].default, ge=0.001)
    leader_cpus: float = Field(AppArgs.model_fields["leader_cpus"].default, ge=0.001)
    rank_cpus: float | None = Field(None, ge=0.001)
    """CPUs of a rank; left out, the app's default on a GPU, and on CPU what APIEntrypoint and leader leave."""

    @property
    def ranks_per_pod(self) -> int:
        """Ranks that a worker pod holds: one per GPU, or one on a pod without."""
        return max(1, self.gpus_per_worker)

    @property
    def pods(self) -> int:
        """Worker pods that the gangs need; each also holds one APIEntrypoint."""
        return worker_pods(self.total_workers, self.gangs, self.ranks_per_pod)

    @property
    def computed_device(self) -> Device:
        """The device given, else the one that the pods' GPUs mean."""
        return self.device or ("cuda" if self.gpus_per_worker else "cpu")

    @property
    def computed_rank_cpus(self) -> float:
        """The CPUs given for a rank, else those that follow from the pod."""
        return self.rank_cpus if self.rank_cpus is not None else self.budget.rank / 1000

    @property
    def budget(self) -> PodBudget:
        """The CPUs of a worker pod, and what runs in it."""
        return PodBudget(
            cpus=milli(self.worker_cpus),
            ranks=self.ranks_per_pod,
            device=self.computed_device,
            api=milli(self.api_cpus),
            leader=milli(self.leader_cpus),
            given_rank=None if self.rank_cpus is None else milli(self.rank_cpus),
        )

    def app_args(self) -> AppArgs:
        """Return the application's ``args``; the counts are not among them, since a changed ``args`` restarts all."""
        given = self.model_dump(include=AppArgs.model_fields.keys() - {"total_workers", "gangs"})
        return AppArgs(**given | {"device": self.computed_device, "rank_cpus": self.computed_rank_cpus})

    @model_validator(mode="after")
    def _ranks_have_a_plan(self) -> Self:
        if self.attention_heads is not None:
            try:
                gang_plan(self.total_workers, self.attention_heads)
            except NoPlanError as error:
                raise ValueError(f"totalWorkers (total_workers): {error}") from None
        return self

    @model_validator(mode="after")
    def _gpus_for_cuda(self) -> Self:
        if self.device == "cuda" and not self.gpus_per_worker:
            raise ValueError(
                "device: cuda needs a GPU per rank, but gpusPerWorker (gpus_per_worker) is 0; "
                "set gpusPerWorker to the GPUs of a worker pod, or leave device out"
            )
        return self

    @model_validator(mode="after")
    def _a_pod_holds_its_share(self) -> Self:
        if message := self.budget.problem:
            raise ValueError(message)
        return self
