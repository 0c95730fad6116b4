"""Trains the tiny Wan models from a seed and writes their folders: ``python -m training.train``.

It needs one GPU (minutes on an H200); ``--rehearsal`` runs a few steps of everything on a CPU.
"""

import argparse
import json
import platform
import random
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from training import autoencoder, denoiser, folder, generation, pictures, scoring, text
from training.loop import Curve
from training.prompts import held_out_prompts
from training.scenes import training_scenes
from training.settings import Training

_RESULTS = Path(__file__).with_name("results")


def main() -> None:
    """Parse the command line, train, write and score."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--models", type=Path, default=Path("app/models"), help="folder for the model folders")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder for settings, losses and scores")
    parser.add_argument("--seed", type=int, default=Training.seed)
    parser.add_argument("--rehearsal", action="store_true", help="a few steps of everything: shows that it runs")
    parser.add_argument(
        "--further", action="store_true", help="only continue the training of the transformers in --models"
    )
    arguments = parser.parse_args()
    settings = Training(seed=arguments.seed)
    if arguments.rehearsal:
        settings = settings.rehearsal()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # TF32 products and the fastest convolutions are exact enough: the trained weights are rounded to float16.
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True

    started = time.monotonic()
    curves = _train(settings, device, arguments.models, arguments.further)
    seconds = time.monotonic() - started
    arguments.results.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "command": "python -m training.train"
        + (" --further" if arguments.further else "")
        + (" --rehearsal" if arguments.rehearsal else ""),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"one {torch.cuda.get_device_name()}" if device == "cuda" else platform.machine(),
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
        "seconds": round(seconds, 1),
        "settings": asdict(settings),
        "curves": [curve.as_dict() for curve in curves],
    }
    suffix = "_further" if arguments.further else ""
    _write(arguments.results / f"training{suffix}.json", record)
    pictures.loss_curves(arguments.results / f"losses{suffix}.png", record["curves"])
    _write(
        arguments.results / f"scores_after_training{suffix}.json", _score(arguments.models, device, arguments.rehearsal)
    )
    print(f"{time.monotonic() - started:.0f} s in all, scoring included")


def _train(settings: Training, device: str, models: Path, further: bool) -> list[Curve]:
    curves = []
    if further:
        finished = generation.load(generation.Request(models / folder.ONE, [], device=device))
        tokenizer, text_encoder, vae = finished.tokenizer, finished.text_encoder, finished.vae
        start, long, expert = finished.transformer, settings.further_transformer, settings.further_expert
        # Draw other clips and noise than the first training.
        settings = replace(settings, seed=settings.seed + 100)
    else:
        vae, vae_curve = autoencoder.train(settings, device)
        tokenizer, text_encoder, text_curve = text.train(settings, device)
        start, long, expert = None, settings.transformer, settings.expert
        curves = [vae_curve, text_curve]

    vae.eval().requires_grad_(False)
    examples = _examples(settings, device, tokenizer, text_encoder, vae)
    single, single_curve = denoiser.train("transformer", examples, settings, long, start=start)
    boundary = settings.boundary_ratio
    shared = (tokenizer, text_encoder, vae)
    # Written now, so that it is not lost if the run is interrupted while the experts train.
    folder.write(models / folder.ONE, *shared, [single], settings.flow_shift, boundary)
    # The experts' ranges overlap a little, since the scheduler's levels come close to the boundary from both sides.
    above, below = (boundary - 0.02, 1.0), (0.0, boundary + 0.02)
    high, high_curve = denoiser.train("high-noise expert", examples, settings, expert, above, single)
    low, low_curve = denoiser.train("low-noise expert", examples, settings, expert, below, single)

    folder.write(models / folder.TWO_EXPERTS, *shared, [high, low], settings.flow_shift, boundary)
    return [*curves, single_curve, high_curve, low_curve]


def _examples(settings: Training, device: str, tokenizer: Any, text_encoder: Any, vae: Any) -> denoiser.Examples:
    latents, scenes = autoencoder.training_latents(vae, settings, device)
    rng = random.Random(settings.seed + 4)
    prompts = [
        text.training_prompt(scene, rng) for scene in range(len(training_scenes())) for _ in range(settings.phrasings)
    ]
    embeddings = text.embed(tokenizer, text_encoder, prompts, device)
    blanks = text.embed(tokenizer, text_encoder, [text.blank_prompt(rng) for _ in range(256)], device)
    return denoiser.Examples(latents, scenes, embeddings.view(-1, settings.phrasings, *embeddings.shape[1:]), blanks)


def _score(models: Path, device: str, rehearsal: bool) -> dict[str, Any]:
    """Score both folders, as written, on the held-out prompts."""
    torch.set_float32_matmul_precision("highest")
    prompts = held_out_prompts()[: 2 if rehearsal else None]
    scores = {}
    for name in (folder.ONE, folder.TWO_EXPERTS):
        request = generation.Request(models / name, prompts, batch=50, device=device)
        scores[name] = scoring.score(prompts, generation.generate(request)[0])
        print(name, {key: value for key, value in scores[name].items() if key != "rows"}, flush=True)
    return scores


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
