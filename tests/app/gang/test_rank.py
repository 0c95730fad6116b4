"""What a rank is told and which device it takes; no GPU is needed to check either."""

import pytest
import torch
import torch.distributed as dist

from app.config import ConfigError
from app.gang.rank import PeerLostError, Rendezvous, TaskFailedError, _translated, device_index


def test_every_rank_gets_all_five_rendezvous_variables() -> None:
    assert Rendezvous(3, 4, 1, "10.0.0.7", 40123).environment() == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "10.0.0.7",
        "MASTER_PORT": "40123",
    }


@pytest.mark.parametrize(
    ("visible", "assigned", "environment", "index"),
    [
        (1, ["5"], "5", 0),  # what Ray does: each rank sees its own GPU alone
        (1, [], None, 0),
        (8, ["5"], None, 5),  # isolation switched off
        (4, ["6"], "4,5,6,7", 2),
    ],
)
def test_the_device_is_counted_among_what_the_rank_sees(
    visible: int, assigned: list[str], environment: str | None, index: int
) -> None:
    assert device_index(visible, assigned, environment) == index


def test_a_rank_without_a_gpu_is_told_so() -> None:
    with pytest.raises(ConfigError, match="torch sees no GPU; give the worker pods"):
        device_index(0, ["0"], None)


def test_a_gpu_that_is_not_visible_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"Ray gave this rank GPU \['9'\], torch sees 2 GPUs"):
        device_index(2, ["9"], None)


def test_out_of_memory_is_told_without_the_allocators_own_advice() -> None:
    found = "CUDA out of memory. Tried to allocate 24.00 MiB. GPU 0 has 139.80 GiB of which 17.50 MiB is free"
    error = _translated(torch.OutOfMemoryError(f"{found}. Including non-PyTorch memory, this process has 1.7 GiB"))
    assert isinstance(error, TaskFailedError)
    assert error.code == "out_of_memory"
    assert f"({found}); ask for fewer frames" in error.message
    assert "set offload_weights to always" in error.message


def test_a_rank_that_ran_out_of_memory_alone_says_what_helps() -> None:
    cause = torch.OutOfMemoryError("CUDA out of memory. Including non-PyTorch memory, this process has 78.2 GiB")
    error = dist.DistError(f"rank 1 failed to decode: OutOfMemoryError: {cause}")
    error.__cause__ = cause
    told = _translated(error)
    assert isinstance(told, PeerLostError)
    assert str(told).startswith("rank 1 failed to decode: OutOfMemoryError: CUDA out of memory; ask for fewer frames")
    assert str(told).endswith("set offload_weights to always")
