"""Builds a model's modules without data: the real classes on torch's meta device, whose tensors have no memory.

From these modules, weights and allocations can be counted on any machine within a second.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from app.model.acceleration import use_fp8_linear
from app.model.folder import ModelFolder

_WEIGHTLESS = ("tokenizer", "scheduler", "image_processor", "feature_extractor")
"""Components of a pipeline that are not modules."""


def rank_dtypes(device: str) -> dict[str, torch.dtype]:
    """Return the dtype in which a rank on ``device`` loads each component.

    On a GPU only the VAE keeps full precision, as in the example of the model's repository; on a CPU everything does.
    """
    if device == "cpu":
        return {"default": torch.float32}
    return {"default": torch.bfloat16, "vae": torch.float32}


@dataclass(frozen=True)
class Weights:
    """The size of one component in a rank's memory."""

    component: str
    """Its name in the pipeline, such as ``transformer_2``."""
    parameters: int
    """Number of parameters as the model's files contain them, before quantization."""
    bytes: int
    """Bytes of parameters and buffers as a rank holds them."""


def weights(model: ModelFolder, device: str = "cuda", *, fp8_linear: bool = False) -> list[Weights]:
    """Return the weights of every component of ``model`` as a rank holds them, buffers included."""
    found = []
    for component in components(model):
        module = meta_module(model, component, device=device)
        parameters = sum(one.numel() for one in module.parameters())
        if fp8_linear and component.startswith("transformer"):
            use_fp8_linear(module)
        found.append(Weights(component, parameters, _bytes(module)))
    return found


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def components(model: ModelFolder) -> list[str]:
    """Return the names of the components that have weights."""
    index = model.configs("model_index.json")
    return [
        name
        for name, kind in index.items()
        if isinstance(kind, list) and len(kind) == 2 and kind[0] is not None and name not in _WEIGHTLESS
    ]


def meta_module(model: ModelFolder, component: str, *, device: str = "cuda", **changes: Any) -> Any:
    """Return ``component`` on the meta device, in the dtypes that a rank on ``device`` gives it.

    Args:
        model: the model.
        component: one of ``components(model)``.
        device: what the rank computes on.
        changes: values that override those of the component's config, such as ``num_layers``.
    """
    library, name = model.configs("model_index.json")[component]
    kind = getattr(import_module(library), name)
    config = model.configs(f"{component}/config.json") | changes
    with torch.device("meta"):
        module = kind(kind.config_class.from_dict(config)) if library == "transformers" else kind.from_config(config)
    dtypes = rank_dtypes(device)
    dtype = dtypes.get(component, dtypes["default"])
    # diffusers keeps these modules in float32 in every dtype; transformers does so only when loading in float16.
    full = set(getattr(module, "_keep_in_fp32_modules", None) or ()) if library == "diffusers" else set()
    for path, parameter in module.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if full & set(path.split(".")) else dtype)
    return module.eval().requires_grad_(False)
