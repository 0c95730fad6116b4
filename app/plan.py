"""Decides how many ranks may form a gang, and how a gang splits one request. Pure arithmetic: no torch, no Ray.

A plan is ``replicas x cfg x ulysses`` ranks. Ulysses sequence parallelism (DeepSpeed-Ulysses, arXiv:2309.14509) gives
each rank some of the tokens and, in attention, some of the heads, so its degree must divide the number of heads. CFG
parallelism (xDiT, arXiv:2411.01738) runs the conditional and the unconditional branch of classifier-free guidance on
different ranks, so its degree is at most 2. Replicas repeat the same computation, so that a request which cannot use
every rank still runs correctly.
"""

import math
from dataclasses import dataclass

MAX_RANKS = 80
"""The largest gang: CFG 2 x Ulysses 40, since A14B has 40 attention heads."""


class NoPlanError(ValueError):
    """The model has no plan for this number of ranks; the message names the allowed numbers."""


@dataclass(frozen=True)
class Plan:
    """One split of a gang; rank ``r`` is replica ``r // (cfg * ulysses)``, branch ``r // ulysses % cfg``."""

    cfg: int = 1
    ulysses: int = 1
    replicas: int = 1
    lengths: tuple[int, ...] = ()
    """Tokens of each Ulysses rank if they do not divide evenly (the first ranks have one more), else empty."""

    @property
    def ranks(self) -> int:
        return self.replicas * self.cfg * self.ulysses

    def __str__(self) -> str:
        words = [f"CFG {self.cfg}", f"Ulysses {self.ulysses}{' uneven' if self.lengths else ''}"]
        if self.replicas > 1:
            words.append(f"replicated {self.replicas} times")
        return " x ".join(words)


def gang_plan(ranks: int, heads: int) -> Plan:
    """Return the plan with which all ``ranks`` ranks share one guided request to a model of ``heads`` attention heads.

    CFG parallelism is preferred: it communicates once in each step, Ulysses four times in each layer.

    Raises:
        NoPlanError: no CFG degree of 1 or 2 leaves a Ulysses degree that divides ``heads``; names the allowed counts.
    """
    for cfg in (2, 1):
        if ranks >= 1 and ranks % cfg == 0 and heads % (ranks // cfg) == 0:
            return Plan(cfg, ranks // cfg)
    allowed = ", ".join(map(str, allowed_counts(heads)))
    raise NoPlanError(
        f"{ranks} ranks have no parallel plan for a model with {heads} attention heads; use one of {allowed}"
    )


def request_plan(ranks: int, heads: int, tokens: int, guided: bool) -> Plan:
    """Return the plan of one request: as many ranks as possible share its work, and replicas of them repeat it.

    Args:
        ranks: size of the gang, one of ``allowed_counts(heads)``.
        heads: attention heads of the transformer.
        tokens: length of the token sequence; each Ulysses rank needs at least one token.
        guided: whether the request has an unconditional branch (guidance_scale above 1).
    """
    plans = [
        Plan(cfg, ulysses, ranks // (cfg * ulysses), _lengths(tokens, ulysses))
        for cfg in ((1, 2) if guided else (1,))
        for ulysses in range(1, ranks // cfg + 1)
        if ranks % (cfg * ulysses) == 0 and heads % ulysses == 0 and ulysses <= tokens
    ]
    return min(plans, key=lambda plan: (plan.replicas, -plan.cfg))


def _lengths(tokens: int, ranks: int) -> tuple[int, ...]:
    if tokens % ranks == 0:
        return ()
    return tuple(tokens // ranks + (rank < tokens % ranks) for rank in range(ranks))


def allowed_counts(heads: int, limit: int = MAX_RANKS) -> list[int]:
    """Return every gang size up to ``limit`` that has a plan for ``heads`` attention heads, ascending."""
    degrees = [degree for degree in range(1, heads + 1) if heads % degree == 0]
    counts = {cfg * degree for cfg in (1, 2) for degree in degrees}
    return sorted(count for count in counts if count <= limit)


def largest_planned_count(ranks: int, heads: int) -> int:
    """Return the largest allowed gang size that is at most ``ranks``; 0 if ``ranks`` is less than 1."""
    return max((count for count in allowed_counts(heads) if count <= ranks), default=0)


def worker_pods(total_workers: int, gangs: int, gpus_per_worker: int) -> int:
    """Return the number of worker pods for ``gangs`` gangs of ``total_workers`` ranks, one GPU for each rank.

    A gang of at least ``gpus_per_worker`` ranks has its own pods; smaller gangs share pods, and none is split over two.
    """
    if total_workers >= gpus_per_worker:
        return gangs * math.ceil(total_workers / gpus_per_worker)
    return math.ceil(gangs / (gpus_per_worker // total_workers))
