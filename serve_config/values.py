"""The values that serveConfigV2 is rendered from. They check that a plan exists and that a pod holds its share."""

from typing import Self

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from app.config import AppArgs, AppOptions, Device, Environment, GangCount, RankCount
from app.plan import NoPlanError, gang_plan, worker_pods

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
        if self.rank_cpus is not None:
            return self.rank_cpus
        if self.computed_device == "cuda":
            return float(AppArgs.model_fields["rank_cpus"].default)
        free = self.worker_cpus * 1000 - _milli(self.api_cpus)
        return (free // self.ranks_per_pod - _milli(self.leader_cpus)) / 1000

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
        message = pod_problem(
            self.worker_cpus,
            self.ranks_per_pod,
            self.computed_device,
            api_cpus=self.api_cpus,
            leader_cpus=self.leader_cpus,
            rank_cpus=self.rank_cpus,
        )
        if message:
            raise ValueError(message)
        return self


def pod_problem(
    worker_cpus: float, ranks: int, device: Device, *, api_cpus: float, leader_cpus: float, rank_cpus: float | None
) -> str | None:
    """Return why a worker pod cannot hold its APIEntrypoint, ``ranks`` ranks and their leaders at once, or None.

    On CPU only the reservation keeps further ranks off a pod, so one rank more than planned must not fit.
    """
    pod, api, leader = _milli(worker_cpus), _milli(api_cpus), _milli(leader_cpus)
    default = _milli(AppArgs.model_fields["rank_cpus"].default)
    least = (ranks + 1) * (api + ranks * leader)
    if rank_cpus is not None:
        rank = _milli(rank_cpus)
    else:
        rank = default if device == "cuda" else (pod - api) // ranks - leader
    if device == "cpu" and rank_cpus is None:
        if (ranks + 1) * rank > pod:
            return None
        return (
            f"worker.resources.limits.cpu (worker_cpus): {worker_cpus:g} CPUs are too few for a CPU worker pod with "
            f"{ranks} rank(s), APIEntrypoint ({api_cpus:g}) and a leader ({leader_cpus:g}) per rank; "
            f"set it to {least // 1000 + 1} or more, or lower app.apiCpus or app.leaderCpus"
        )
    need = api + ranks * (leader + rank)
    if need > pod:
        return (
            f"worker.resources.limits.cpu (worker_cpus): a worker pod has {worker_cpus:g} CPUs but needs "
            f"{need / 1000:g}: APIEntrypoint {api_cpus:g} + {ranks} x (leader {leader_cpus:g} + rank {rank / 1000:g}); "
            f"set it to {-(-need // 1000)} or more, or lower app.apiCpus, app.leaderCpus, app.rankCpus or gpusPerWorker"
        )
    if device == "cpu" and (ranks + 1) * rank <= pod:
        return (
            f"app.rankCpus (rank_cpus): {rank / 1000:g} lets more than {ranks} rank(s) into a worker pod of "
            f"{worker_cpus:g} CPUs, where they may leave APIEntrypoint none; leave it out, so that it follows the pod"
        )
    return None


def _milli(cpus: float) -> int:
    return round(cpus * 1000)
