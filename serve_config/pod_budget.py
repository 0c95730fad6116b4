"""Whether a worker pod has CPUs for APIEntrypoint, its ranks and their leaders. Everything in thousandths of a CPU.

The chart has the same rules in templates/_validation.tpl; a test holds the messages equal.
"""

from dataclasses import dataclass

from app.config import AppArgs, Device


def milli(cpus: float) -> int:
    """Return thousandths of a CPU."""
    return round(cpus * 1000)


@dataclass(frozen=True)
class PodBudget:
    """The CPUs of one worker pod, and what runs in it."""

    cpus: int
    """CPUs that Ray counts on the pod."""
    ranks: int
    """Ranks that the pod is to hold, each with a leader at most."""
    device: Device
    api: int
    """CPUs of APIEntrypoint."""
    leader: int
    """CPUs of a leader."""
    given_rank: int | None = None
    """CPUs of a rank, if they are set."""

    @property
    def rank(self) -> int:
        """CPUs of a rank: as set, else the app's default on a GPU, else what the others leave of a CPU pod."""
        if self.given_rank is not None:
            return self.given_rank
        if self.device == "cuda":
            return milli(AppArgs.model_fields["rank_cpus"].default)
        return (self.cpus - self.api) // self.ranks - self.leader

    @property
    def needs(self) -> int:
        """CPUs of everything that the pod is to hold at once."""
        return self.api + self.ranks * (self.leader + self.rank)

    @property
    def admits_more_ranks(self) -> bool:
        """Whether Ray could put a further rank on the pod, which on CPU only the ranks' CPUs prevent."""
        return self.device == "cpu" and (self.ranks + 1) * self.rank <= self.cpus

    @property
    def problem(self) -> str | None:
        """Why the pod cannot hold its share, with the chart's value to change; None if it can."""
        pod, api, leader, rank = (f"{each / 1000:g}" for each in (self.cpus, self.api, self.leader, self.rank))
        if self.admits_more_ranks and self.given_rank is None:
            least = (self.ranks + 1) * (self.api + self.ranks * self.leader) // 1000 + 1
            return (
                f"worker.resources.limits.cpu (worker_cpus): {pod} CPUs are too few for a CPU worker pod with "
                f"{self.ranks} rank(s), APIEntrypoint ({api}) and a leader ({leader}) per rank; "
                f"set it to {least} or more, or lower app.apiCpus or app.leaderCpus"
            )
        if self.needs > self.cpus:
            return (
                f"worker.resources.limits.cpu (worker_cpus): a worker pod has {pod} CPUs but needs "
                f"{self.needs / 1000:g}: APIEntrypoint {api} + {self.ranks} x (leader {leader} + rank {rank}); set it "
                f"to {-(-self.needs // 1000)} or more, or lower app.apiCpus, app.leaderCpus, app.rankCpus or "
                "gpusPerWorker"
            )
        if self.admits_more_ranks:
            return (
                f"app.rankCpus (rank_cpus): {rank} lets more than {self.ranks} rank(s) into a worker pod of {pod} "
                "CPUs, so that APIEntrypoint may find none; leave it out, so that it follows the pod"
            )
        return None
