"""Muon on stacks of matrices."""

import pytest
import torch

from training.muon import StackedMuon, orthogonalised


def test_it_moves_matrices_as_the_library_does_one_by_one() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = [(8, 8), (24, 8), (8, 24), (8, 8)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    stacked = StackedMuon(ours, lr=0.1, weight_decay=0.02)
    single = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        stacked.step()
        single.step()  # type: ignore[no-untyped-call]
    for one, other in zip(ours, theirs, strict=True):
        # Both orthogonalise in bfloat16, in another order of sums.
        torch.testing.assert_close(one, other, atol=5e-3, rtol=0)


@pytest.mark.parametrize("shape", [(2, 16, 16), (2, 48, 16), (2, 16, 48)])
def test_singular_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2))

    values = torch.linalg.svdvals(orthogonalised(matrices))

    assert values.median() == pytest.approx(1, abs=0.35)
    assert values.max() < 1.4
