"""``python -m benchmarks.gpu.agreement``: how near the videos of each option and of two ranks are to one rank without
options. The trained tiny Wan makes them, whose videos have structure. Without a GPU it runs on the CPU.
"""

import argparse
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from app.config import ModelOptions
from app.model.pipeline import Pipeline
from app.runtime import local_model
from testing.ports import free_port
from training.reader import Frames
from training.scoring import psnr

GUIDED = {"prompt": "a red circle moving right on a blue ground", "num_inference_steps": 40, "seed": 3}
REQUESTS: dict[str, dict[str, Any]] = {
    "guided": GUIDED,
    "not guided": GUIDED | {"guidance_scale": 1.0},
    "uneven": GUIDED | {"guidance_scale": 1.0, "width": 80, "height": 48, "num_frames": 9},
}
PLAIN: dict[str, Any] = {"attention_backend": "native", "compile_blocks": "never"}
OPTIONS: dict[str, dict[str, Any]] = {
    "none": PLAIN,
    "none, again": PLAIN,
    "attention_backend: auto": PLAIN | {"attention_backend": "auto"},
    "compile_blocks": PLAIN | {"compile_blocks": "always"},
    "both": {"attention_backend": "auto", "compile_blocks": "always"},
    "offload_weights": PLAIN | {"offload_weights": "always"},
    "offload_weights and both": {
        "offload_weights": "always",
        "attention_backend": "auto",
        "compile_blocks": "always",
    },
    "fp8_linear": PLAIN | {"fp8_linear": True},
    "step_cache": PLAIN | {"step_cache": "taylorseer"},
}
Case = tuple[str, int, int]
"""An option, a number of ranks, and the port at which these meet."""


def _rank(rank: int, cases: Sequence[Case]) -> None:
    warnings.simplefilter("ignore")
    device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
    torch.set_num_threads(1)
    plain: dict[str, Any] | None = None
    for name, ranks, port in cases:
        if rank >= ranks:
            continue
        try:
            attention, videos = _make(rank, device, name, ranks, port)
        except Exception as error:
            # The other rank, which does the same, fails in the same way; the next option is tried all the same.
            attention, videos = f"{type(error).__name__}: {error}".splitlines()[0], {}
            if dist.is_initialized():
                dist.destroy_process_group()
        if plain is None:
            plain = videos
        if rank == 0:
            cells = [
                _nearness(videos[key], plain[key]) if key in videos and key in plain else "failed" for key in REQUESTS
            ]
            print(f"| {name} | {ranks} | {attention} | {' | '.join(cells)} |", flush=True)
        torch.compiler.reset()


def _make(rank: int, device: torch.device, name: str, ranks: int, port: int) -> tuple[str, dict[str, Any]]:
    pipeline = Pipeline(str(local_model()), device, ModelOptions(**OPTIONS[name]), ranks)
    pipeline.join(dist.TCPStore("127.0.0.1", port, ranks, rank == 0), rank, ranks, timedelta(minutes=1))
    videos = {
        key: pipeline.generate(pipeline.model.default_task(**request), lambda _: True)
        for key, request in REQUESTS.items()
    }
    pipeline.leave()
    return pipeline.attention, videos


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.agreement", description=__doc__)
    parser.add_argument("--options", nargs="+", choices=OPTIONS, default=list(OPTIONS), help='always after "none"')
    chosen = ["none", *(name for name in parser.parse_args().options if name != "none")]
    cases = [(name, ranks, free_port()) for name in chosen for ranks in (1, 2)]
    print("| option | ranks | attention | " + " | ".join(REQUESTS) + " |\n|---|---|---|" + "---|" * len(REQUESTS))
    spawn(_rank, (cases,), nprocs=2)  # type: ignore[no-untyped-call]


def _nearness(video: Frames, reference: Frames) -> str:
    most = int(np.abs(video.astype(int) - reference).max())
    return "equal" if most == 0 else f"{psnr([video], [reference]):.1f} dB, at most {most} of 255"


if __name__ == "__main__":
    main()
