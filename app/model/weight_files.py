"""Compares the safetensors files of a model folder with the modules that will load them, by the files' headers alone.

diffusers and transformers fill missing tensors with random numbers and drop unknown ones, with a warning in the log, so
an incomplete folder would make videos of noise.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from app.config import ConfigError
from app.model.folder import ModelFolder
from app.model.meta import components, meta_module

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""The name of a component's weight files, by the library of its class."""
_VARIANTS = ("bf16", "fp16")
"""The variants that may be loaded instead of the plain files. bfloat16 first: UMT5 exceeds float16's range."""
_NAMED = 5
"""How many tensors a message names."""


def needed_variant(model: ModelFolder, folder: Path) -> str | None:
    """Return the variant (as in ``model.fp16.safetensors``) without which a component has no weights, or None.

    If a folder contains plain files and variants, the plain files are used.
    """
    lacking = [(place, stem) for _, place, stem in _checked(model, folder) if not _has_plain(place, stem)]
    found = (one for one in _VARIANTS if lacking and all(_files(place, stem, one) for place, stem in lacking))
    return next(found, None)


def check_weights(model: ModelFolder, folder: Path, variant: str | None) -> None:
    """Refuse a model whose files lack tensors, or contain tensors that the modules do not have.

    Files in other formats than safetensors are not checked.

    Args:
        model: the configs.
        folder: the local folder with the weights.
        variant: as ``needed_variant`` returns it.

    Raises:
        ConfigError: names the component and up to five tensors.
        OSError: a file is missing.
    """
    for component, place, stem in _checked(model, folder):
        files = _files(place, stem, variant) or _files(place, stem, None)
        if not files:
            continue
        found = _shapes(files)
        module = meta_module(model, component)
        expected = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
        # A tied tensor is loaded from either of its names.
        tied = getattr(module, "_tied_weights_keys", None) or {}
        optional = {name for pair in tied.items() for name in pair if found.keys() & set(pair)}
        unused = getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()
        missing = expected.keys() - found.keys() - optional
        unknown = {name for name in found.keys() - expected.keys() if not any(re.search(one, name) for one in unused)}
        reshaped = {name for name in expected.keys() & found.keys() if expected[name] != found[name]}
        problems = [
            *_listed("lack {} that the model needs", missing),
            *_listed("contain {} that the model does not have", unknown),
            *_listed("contain {} of another shape than config.json says", reshaped),
        ]
        if problems:
            raise ConfigError(
                f"MODEL_PATH: the weights in {place} {'; they '.join(problems)}; {_remedy(unknown, component)}"
            )


def check_finite(component: str, folder: Path, module: torch.nn.Module) -> None:
    """Refuse a loaded module with a NaN or an infinity in its weights.

    Raises:
        ConfigError: names the component and up to five tensors.
    """
    broken = [name for name, tensor in module.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    for problem in _listed("contain {} with NaN or infinite values", broken):
        raise ConfigError(f"MODEL_PATH: the weights in {folder / component} {problem}; {_DOWNLOAD}")


_DOWNLOAD = "download the folder or save it again"


def _remedy(unknown: Iterable[str], component: str) -> str:
    if any(name.endswith(("scale_weight", "weight_scale", "scaled_fp8")) for name in unknown):
        return (
            f"these are scales of FP8 weights, which are not supported; put the {component}'s weights in bfloat16 "
            "there, and set fp8_linear to true to compute with FP8"
        )
    return _DOWNLOAD


def _listed(sentence: str, names: Iterable[str]) -> list[str]:
    """Return ``sentence`` with the number of tensors and the first of their names; nothing if there are none."""
    ordered = sorted(names)
    if not ordered:
        return []
    more = ", ..." if len(ordered) > _NAMED else ""
    count = f"{len(ordered)} tensor{'' if len(ordered) == 1 else 's'} ({', '.join(ordered[:_NAMED])}{more})"
    return [sentence.format(count)]


def _checked(model: ModelFolder, folder: Path) -> list[tuple[str, Path, str]]:
    """Return the name, the folder and the files' stem of each component of a Wan2.2 pipeline that has weights."""
    index = model.configs("model_index.json")
    return [
        (component, folder / component, _STEMS[index[component][0]])
        for component in components(model)
        if component in ("text_encoder", "transformer", "transformer_2", "vae") and index[component][0] in _STEMS
    ]


def _has_plain(folder: Path, stem: str) -> bool:
    return bool(_files(folder, stem, None)) or any(folder.glob("*.bin"))


def _files(folder: Path, stem: str, variant: str | None) -> list[Path]:
    """Return the safetensors files of a component; none if it has no weights of this variant."""
    dotted = f".{variant}" if variant else ""
    index = folder / f"{stem}.safetensors.index{dotted}.json"
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    single = folder / f"{stem}{dotted}.safetensors"
    return [single] if single.is_file() else []


def _shapes(files: list[Path]) -> dict[str, list[int]]:
    """Return the shape of every tensor in ``files``.

    Raises:
        ConfigError: a file is cut off or no safetensors file.
    """
    found: dict[str, list[int]] = {}
    for path in files:
        try:
            with safe_open(path, "pt") as tensors:
                found |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ConfigError(f"MODEL_PATH: {path} is no complete safetensors file: {error}; {_DOWNLOAD}") from None
    return found
