"""Scores a tiny Wan folder on a file of prompts: ``python -m training.score --prompts FILE``.

Prints JSON: the fractions of videos with the requested colour, shape and direction. ``--video`` reads a finished video
instead; ``--sheet`` also writes a contact sheet.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from app.config import ModelOptions
from training import generation, pictures, reader, scoring


def main() -> None:
    """Parse the command line, make the videos, print their scores."""
    parser = argparse.ArgumentParser(prog="python -m training.score", description=(__doc__ or "").split(":")[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--prompts", type=Path, help="one prompt a line")
    task.add_argument("--video", type=Path, help="only print what this video shows")
    parser.add_argument(
        "--model", type=Path, default=Path("app/models/tiny-wan"), help="a model folder with wan22.json"
    )
    parser.add_argument(
        "--ranks", type=int, choices=(1, 2, 4), default=1, help="processes that share each video, on CPU"
    )
    parser.add_argument("--steps", type=int, help="denoising steps; the folder's default if left out")
    parser.add_argument("--guidance", type=float, help="guidance scale; the folder's default if left out")
    parser.add_argument(
        "--step-cache", choices=("off", "taylorseer"), default="off", help="as the service's step_cache"
    )
    parser.add_argument("--fp8-linear", action="store_true", help="as the service's fp8_linear")
    parser.add_argument(
        "--psnr", action="store_true", help="also make each video without these options, and print how close they are"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; several ranks are for cpu")
    parser.add_argument("--batch", type=int, default=4, help="videos made at a time")
    parser.add_argument("--rows", action="store_true", help="also print the reading of each video")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of all the videos to this PNG")
    parser.add_argument("--font", help="font file of the sheet; Chinese captions need one")
    arguments = parser.parse_args()
    if arguments.ranks > 1 and arguments.device != "cpu":
        parser.error("--ranks above 1 is for --device cpu")
    result = _read(arguments.video) if arguments.video else _score(arguments)
    print(json.dumps(result, indent=1, ensure_ascii=False))


def _read(video: Path) -> dict[str, Any]:
    # Imported only here: everything else runs without a video library.
    from training import videos

    return asdict(reader.read(videos.read_file(video)))


def _score(arguments: argparse.Namespace) -> dict[str, Any]:
    prompts = [line.strip() for line in arguments.prompts.read_text().splitlines() if line.strip()]
    request = generation.Request(
        arguments.model, prompts, arguments.seed, arguments.steps, arguments.guidance,
        ModelOptions(step_cache=arguments.step_cache, fp8_linear=arguments.fp8_linear),
        arguments.batch, arguments.device,
    )  # fmt: skip
    made, seconds = generation.generate(request, arguments.ranks)
    result = scoring.score(prompts, made)
    rows = result.pop("rows")
    if arguments.sheet:
        pictures.contact_sheet(arguments.sheet, prompts, made, arguments.font)
    nearness = {}
    if arguments.psnr:
        lossless, _ = generation.generate(replace(request, options=ModelOptions()), arguments.ranks)
        nearness = {"psnr_db": round(scoring.psnr(made, lossless), 1)}
    default = generation.defaults(arguments.model)
    on_gpu = arguments.device != "cpu"
    return {
        "model": arguments.model.name,
        "ranks": arguments.ranks,
        "steps": request.steps or default["num_inference_steps"],
        "guidance": default["guidance_scale"] if request.guidance is None else request.guidance,
        "step_cache": request.options.step_cache,
        "fp8_linear": request.options.fp8_linear,
        "seed": request.seed,
        "machine": f"one {torch.cuda.get_device_name()}" if on_gpu else "CPU",
        "seconds_per_video": round(seconds / len(prompts), 2),
        **result,
        **nearness,
        **({"rows": rows} if arguments.rows else {}),
    }


if __name__ == "__main__":
    main()
