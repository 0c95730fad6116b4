"""Which gang sizes are possible, how one request is split, and how many pods that takes."""

import pytest

from app.plan import NoPlanError, Plan, allowed_counts, gang_plan, largest_planned_count, request_plan, worker_pods

A14B, TI2V_5B = 40, 24


def test_allowed_counts_of_the_real_models() -> None:
    assert allowed_counts(A14B, 64) == [1, 2, 4, 5, 8, 10, 16, 20, 40]
    assert allowed_counts(TI2V_5B, 64) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 48]


@pytest.mark.parametrize(
    ("ranks", "heads", "plan"),
    [
        (1, A14B, Plan(1, 1)),
        (2, A14B, Plan(2, 1)),
        (8, A14B, Plan(2, 4)),
        (16, A14B, Plan(2, 8)),
        (5, A14B, Plan(1, 5)),
        (16, TI2V_5B, Plan(2, 8)),
        (3, TI2V_5B, Plan(1, 3)),
    ],
)
def test_cfg_parallelism_comes_before_ulysses(ranks: int, heads: int, plan: Plan) -> None:
    assert gang_plan(ranks, heads) == plan


@pytest.mark.parametrize("ranks", [0, -1, 3, 7, 32, 64])
def test_a_count_without_a_plan_is_refused_with_the_allowed_ones(ranks: int) -> None:
    with pytest.raises(NoPlanError, match=r"40 attention heads; use one of 1, 2, 4, 5, 8, 10, 16, 20, 40"):
        gang_plan(ranks, A14B)


@pytest.mark.parametrize(
    ("ranks", "tokens", "guided", "plan"),
    [
        (8, 75_600, True, Plan(2, 4)),
        (8, 75_600, False, Plan(1, 8)),
        (16, 32_760, True, Plan(2, 8)),
        # 40 heads do not divide over 16 ranks: two groups of them repeat each other's work.
        (16, 32_760, False, Plan(1, 8, replicas=2)),
        (4, 32_761, True, Plan(2, 2, lengths=(16_381, 16_380))),
        (4, 32_761, False, Plan(1, 4, lengths=(8_191, 8_190, 8_190, 8_190))),
        (4, 3, False, Plan(1, 2, 2, lengths=(2, 1))),
        (4, 1, False, Plan(1, 1, replicas=4)),
    ],
)
def test_a_request_uses_as_many_ranks_as_its_heads_and_tokens_allow(
    ranks: int, tokens: int, guided: bool, plan: Plan
) -> None:
    assert request_plan(ranks, A14B, tokens, guided) == plan


@pytest.mark.parametrize("heads", [4, 24, 40])
def test_every_allowed_gang_can_run_every_request(heads: int) -> None:
    for ranks in allowed_counts(heads):
        for tokens in (1, 7, 27_280, 75_600):
            for guided in (True, False):
                assert request_plan(ranks, heads, tokens, guided).ranks == ranks


def test_the_largest_planned_count_that_fits() -> None:
    assert [largest_planned_count(ranks, A14B) for ranks in (0, 1, 3, 9, 100)] == [0, 1, 2, 8, 80]


@pytest.mark.parametrize(
    ("workers", "gangs", "gpus", "pods"),
    [
        (2, 1, 1, 2),
        (8, 1, 8, 1),
        (16, 1, 8, 2),
        (10, 2, 8, 4),  # a gang larger than a pod has pods of its own
        (2, 4, 8, 1),
        (2, 5, 8, 2),
        (5, 2, 8, 2),  # no gang is split over two pods while it fits in one
    ],
)
def test_worker_pods(workers: int, gangs: int, gpus: int, pods: int) -> None:
    assert worker_pods(workers, gangs, gpus) == pods
