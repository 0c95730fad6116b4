"""Ranks that decode together make the frames that one makes alone, and leave nothing behind."""

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from numpy.typing import NDArray
from torch import nn

from app.config import ConfigError
from app.gang.rank import Rank, Rendezvous, TaskFailedError
from app.media.mp4 import read_mp4
from app.model.decoding import pieces
from app.model.pipeline import Pipeline
from app.model.vae_parallel import RowShard, check_shardable, sharded
from testing.ports import free_port
from testing.rank_pool import Frames, RankPool, loaded
from tests.app.model.makers import VAE_2_1, VAE_2_2

KINDS = pytest.mark.parametrize("kind", [VAE_2_1, VAE_2_2], ids=["2.1", "2.2"])


def test_rows_that_do_not_divide_go_to_the_first_ranks() -> None:
    assert RowShard.split(90, 0, 4).counts == (23, 23, 22, 22)
    assert RowShard.split(3, 0, 4).counts == (1, 1, 1)
    assert [RowShard.split(3, rank, 4).is_empty for rank in range(4)] == [False, False, False, True]


@KINDS
def test_every_convolution_of_a_published_decoder_is_known(kind: dict[str, Any]) -> None:
    with torch.device("meta"):
        check_shardable(AutoencoderKLWan(**kind).decoder)


@pytest.mark.parametrize(
    "unknown",
    [
        nn.Conv2d(3, 3, 5, padding=2),
        nn.Conv2d(3, 3, 3, padding=1, stride=2),
        nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(3, 3, 3, padding=1),
        WanCausalConv3d(3, 3, (3, 3, 3)),
        nn.ConvTranspose2d(3, 3, 3),
        nn.Conv1d(3, 3, 3),
    ],
    ids=repr,
)
def test_an_unknown_convolution_is_refused_before_it_draws_seams(unknown: nn.Module) -> None:
    with torch.device("meta"):
        decoder = AutoencoderKLWan(**VAE_2_1).decoder
    decoder.mid_block.late = unknown
    message = (
        rf"diffusers: version [\d.]+ is not supported: .* decoder\.mid_block\.late is {re.escape(repr(unknown))}, "
    )
    with pytest.raises(ConfigError, match=message + r".*; install diffusers>="):
        check_shardable(decoder)
    with pytest.raises(ConfigError, match=message), sharded(decoder, RowShard.split(4, 0, 2)):
        pass


def test_a_rank_does_not_start_with_an_unknown_convolution(tiny_model: Path) -> None:
    with (
        mock.patch("app.model.vae_parallel.WanCausalConv3d", nn.Conv3d),
        pytest.raises(ConfigError, match=r"decoder\.conv_in is WanCausalConv3d"),
    ):
        Pipeline(str(tiny_model), torch.device("cpu"))


def _vae(kind: dict[str, Any], dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    return AutoencoderKLWan(**kind).eval().to(dtype)


def _latents(kind: dict[str, Any], size: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, kind["z_dim"], *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def _decode(
    rank: int, ranks: int, port: int, kind: dict[str, Any], size: tuple[int, int, int], dtype: torch.dtype
) -> list[Frames]:
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, ranks, rank == 0, timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    try:
        vae = _vae(kind, dtype)
        latents = _latents(kind, size, dtype)
        before = [set(vars(module)) for module in vae.decoder.modules()]
        # What the others have is not looked at: their sums may differ a little from rank 0's.
        made = list(pieces(vae, latents if rank == 0 else torch.zeros_like(latents), rank, ranks))
        assert [set(vars(module)) for module in vae.decoder.modules()] == before
        assert not any(kept is not None for kept in getattr(vae, "_feat_map", []))
        return made
    finally:
        dist.destroy_process_group()


@KINDS
@pytest.mark.parametrize("size", [(3, 7, 5), (2, 3, 4), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_two_three_and_four_ranks_make_the_frames_of_one(
    kind: dict[str, Any], size: tuple[int, int, int], dtype: torch.dtype, rank_pool: RankPool
) -> None:
    alone = np.concatenate(list(pieces(_vae(kind, dtype), _latents(kind, size, dtype))))
    assert len(np.unique(alone)) > 10, "the pictures are no plain ground"
    for ranks in (2, 3, 4):
        made, *others = rank_pool.call(ranks, _decode, ranks, free_port(), kind, size, dtype)
        assert [len(piece) for piece in made] == [1] + [4] * (size[0] - 1)
        assert others == [[]] * (ranks - 1)
        # In 32 bits a CPU rounds otherwise at the end of a vector, which is elsewhere when rows are computed apart.
        assert _largest_difference(np.concatenate(made), alone) <= (dtype == torch.float32)


def _largest_difference(one: NDArray[Any], other: NDArray[Any]) -> int:
    return int(np.abs(one.astype(int) - other).max())


def _together() -> Any:
    """Let two ranks on a CPU decode as those on GPUs do."""
    return mock.patch.object(Pipeline, "_decoders", return_value=2)


def _break_and_repeat(rank: int, ports: list[int], folder: str) -> list[Any]:
    """Return the frames of three groups, in the second of which rank 1 fails to decode."""
    pipeline = loaded(folder)
    config = pipeline.model.default_task(seed=7)
    results: list[Any] = []
    for port, broken in zip(ports, (False, True, False), strict=True):
        pipeline.join(dist.TCPStore("127.0.0.1", port, 2, rank == 0), rank, 2, timedelta(seconds=10))
        end_block = pipeline._pipeline.vae.decoder.up_blocks[-1]
        try:
            with _together(), mock.patch.object(end_block, "forward", _fail) if broken and rank else _together():
                results.append(pipeline.generate(config, lambda _: True))
        except RuntimeError as error:
            results.append(error)
        finally:
            pipeline.leave()
    return results


def _fail(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("no memory")


def test_a_rank_that_fails_ends_the_group_and_spoils_nothing_after_it(rank_pool: RankPool, tiny_model: Path) -> None:
    ports = [free_port() for _ in range(3)]
    (first, lost, again), (_, error, _) = rank_pool.call(2, _break_and_repeat, ports, str(tiny_model))
    assert np.array_equal(first, again)
    assert "gloo/" in str(lost)
    assert isinstance(error, dist.DistError), "not as where the task alone failed"
    assert "rank 1 failed to decode: OutOfMemoryError: no memory" in str(error)
    (alone,) = rank_pool.run(tiny_model, 1, {})[0]
    assert _largest_difference(first, np.asarray(alone[0])) <= 1


def _no_disk(_: Iterable[Frames], *__: Any) -> None:
    raise OSError("disk full")


def _soon_no_disk(made: Iterable[Frames], *_: Any) -> None:
    next(iter(made))
    raise OSError("disk full")


def _two_videos(rank: int, port: int, folder: str, storage: str, write: Callable[..., None]) -> list[str | None]:
    """Return what a rank says to two tasks, the first of whose videos cannot be written."""
    worker = Rank(folder, storage, "cpu")
    worker.load(1)
    worker.join(Rendezvous(rank, 2, rank, "127.0.0.1", port), 60)
    said: list[str | None] = []
    try:
        with _together():
            for path, written in (("first.mp4", write), ("second.mp4", None)):
                config = loaded(folder).model.default_task(seed=7)
                with mock.patch("app.media.mp4.write_mp4", written) if written else _together():
                    try:
                        said.append(worker.generate(config, path))
                        if said[-1]:
                            worker.store_video(path)
                    except TaskFailedError as error:
                        said.append(error.message)
    finally:
        worker.leave()
    return said


@pytest.mark.parametrize("write", [_no_disk, _soon_no_disk])
def test_a_video_that_cannot_be_written_leaves_no_rank_waiting(
    write: Callable[..., None], rank_pool: RankPool, tiny_model: Path, tmp_path: Path
) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    said = rank_pool.call(2, _two_videos, store.port, str(tiny_model), str(tmp_path), write)
    full = "rank 0 could not write the video to its disk (disk full); make room in the pod's /tmp"
    assert said == [[full, "second.mp4"], [None, None]]
    assert len(read_mp4(tmp_path / "second.mp4")) == 9
