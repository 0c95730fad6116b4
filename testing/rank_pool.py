"""Rank processes without Ray: gloo groups of 1, 2 and 4 ranks one after the other, as a gang is when it is resized."""

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from app.model.denoise import CancelledError
from app.model.pipeline import Pipeline
from app.plan import Plan
from testing.ports import free_port

Frames = NDArray[np.uint8]

_pipelines: dict[str, Pipeline] = {}


def loaded(folder: str) -> Pipeline:
    torch.set_num_threads(1)
    if folder not in _pipelines:
        _pipelines[folder] = Pipeline(folder, torch.device("cpu"))
    return _pipelines[folder]


def _run(folder: str, rank: int, ranks: int, port: int, configs: list[dict[str, Any]], stop_at: int) -> Any:
    """In a rank's process: join a process group, run the requests, leave it."""
    pipeline = loaded(folder)
    store = dist.TCPStore("127.0.0.1", port, ranks, rank == 0, timedelta(seconds=60))
    pipeline.join(store, rank, ranks, timedelta(seconds=60))
    results: list[Any] = []
    for config in configs:
        picture = config.get("picture")
        filled = pipeline.model.default_task(
            **{"seed": 7} | {key: one for key, one in config.items() if key != "picture"}
        )
        steps: list[int] = []

        def on_step(step: int, steps: list[int] = steps) -> bool:
            steps.append(step)
            return step != stop_at

        try:
            frames = pipeline.generate(filled, on_step, picture)
        except CancelledError:
            frames = None
        results.append((frames, pipeline.plan(filled), steps))
    pipeline.leave()
    return results


def warm_process() -> ProcessPoolExecutor:
    """Return a process that has imported what a rank needs: ten seconds of one core, once for all of them."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["app.model.pipeline"])
    return ProcessPoolExecutor(1, mp_context=context)


class RankPool:
    """Four rank processes that stay; each call uses the first few of them."""

    def __init__(self) -> None:
        self._pools = [warm_process() for _ in range(4)]

    def run(
        self, folder: Path, ranks: int, *configs: dict[str, Any], stop_at: int = -1
    ) -> list[list[tuple[Frames | None, Plan, list[int]]]]:
        """Return each rank's results."""
        port = free_port()
        calls: list[Future[Any]] = [
            pool.submit(_run, str(folder), rank, ranks, port, list(configs), stop_at)
            for rank, pool in enumerate(self._pools[:ranks])
        ]
        return [call.result(timeout=120) for call in calls]

    def call(self, ranks: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Return what ``function(rank, *arguments)`` returns in each rank."""
        calls = [pool.submit(function, rank, *arguments) for rank, pool in enumerate(self._pools[:ranks])]
        return [call.result(timeout=240) for call in calls]

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False)
