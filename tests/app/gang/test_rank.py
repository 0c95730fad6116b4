"""A rank's rendezvous, device and errors, and that it runs every field of a request. No GPU is needed."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from app.config import ConfigError
from app.gang.rank import (
    DeviceLostError,
    OutOfStepError,
    PeerLostError,
    Rank,
    RankLostError,
    Rendezvous,
    TaskFailedError,
    _translated,
    device_index,
)
from app.http.generate_request import GenerateRequest
from app.tasks.task_config import TaskConfig, TaskImage
from testing.ports import free_port
from testing.rank_pool import RankPool
from testing.records import task_config
from tests.app.media.pictures import encoded
from tests.app.model.makers import change_weights


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
    assert isinstance(told, OutOfStepError), "the task's error, and the ranks are out of step"
    assert told.code == "out_of_memory"
    assert "(rank 1 failed to decode: OutOfMemoryError: CUDA out of memory); ask for fewer frames" in told.message
    assert told.message.endswith("set offload_weights to always")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLostError),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), DeviceLostError),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceLostError),
        (RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans"), TaskFailedError),
        (MemoryError(), RankLostError),
        (dist.DistBackendError("NCCL error"), PeerLostError),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), PeerLostError),
        (ValueError("height must be divisible by 16"), TaskFailedError),
    ],
)
def test_a_damaged_rank_a_lost_peer_and_a_failed_task_are_told_apart(error: Exception, kind: type[Exception]) -> None:
    assert type(_translated(error)) is kind


CHANGES: dict[str, Any] = {
    "prompt": "a blue square",
    "negative_prompt": "a green triangle",
    "width": 48,
    "height": 48,
    "num_frames": 5,
    "num_inference_steps": 3,
    "guidance_scale": 2.0,
    "guidance_scale_2": 6.0,
    "flow_shift": 8.0,
    "seed": 2,
    "fps": 4,
    "image": "other.png",
}
"""For each field of a request, a value other than the one in ``task_config``."""


def _videos(_: int, port: int, folder: str, videos: Path, configs: list[TaskConfig]) -> list[bytes]:
    rank = Rank(folder, videos.as_uri(), "cpu")
    rank.load(1)
    rank._store = dist.TCPStore("127.0.0.1", port, 1, is_master=True)
    rank.join(Rendezvous(0, 1, 0, "127.0.0.1", port), 60)
    try:
        paths = []
        for number, config in enumerate(configs):
            paths.append(rank.generate(config, f"{number}.mp4"))
            rank.store_video(f"{number}.mp4")
    finally:
        rank.leave()
    return [(videos / str(path)).read_bytes() for path in paths]


def _failed(rank: int, port: int, folder: str, videos: Path) -> list[str]:
    """Run two tasks with a model that makes NaN; return the codes with which they fail on this rank."""
    one = Rank(folder, videos.as_uri(), "cpu")
    one.load(2)
    if rank == 0:
        one._store = dist.TCPStore("127.0.0.1", port, 2, is_master=True, wait_for_workers=False)
    one.join(Rendezvous(rank, 2, rank, "127.0.0.1", port), 60)
    codes = []
    for number in range(2):
        with pytest.raises(TaskFailedError, match="NaN or infinite numbers, which make no picture") as caught:
            one.generate(task_config(), f"{number}.mp4")
        codes.append(caught.value.code)
    one.leave()
    return codes


def test_numbers_that_are_no_picture_fail_the_task_on_every_rank_and_none_waits(
    rank_pool: RankPool, tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    change_weights(folder / "transformer", lambda tensors: tensors["proj_out.bias"].fill_(math.nan))
    assert rank_pool.call(2, _failed, free_port(), str(folder), tmp_path) == [["not_finite"] * 2] * 2


def test_every_field_of_a_request_reaches_the_video(rank_pool: RankPool, image_model: Path, tmp_path: Path) -> None:
    assert set(CHANGES) == set(GenerateRequest.model_fields) - {"task_id"} == set(TaskConfig.model_fields)
    pictures = {}
    for name, color in (("first.png", "red"), ("other.png", "blue")):
        (tmp_path / name).write_bytes(encoded("PNG", color=color))
        pictures[name] = TaskImage(sha256=name, format="PNG", width=80, height=40, bytes=1, path=name)
    base = task_config(image=pictures["first.png"])
    changed = [
        base.model_copy(update={name: pictures.get(value, value) if name == "image" else value})
        for name, value in CHANGES.items()
    ]
    configs = [base, base, *changed]
    first, again, *videos = rank_pool.call(1, _videos, free_port(), str(image_model), tmp_path, configs)[0]
    assert first == again, "the same request makes the same video, so that a difference means something"
    ignored = [name for name, video in zip(CHANGES, videos, strict=True) if video == first]
    assert not ignored, "these fields are accepted and change nothing"
