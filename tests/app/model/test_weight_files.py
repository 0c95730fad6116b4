"""A folder whose weights are not those of the model is refused by the tensors' names; one with variants is loaded."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.config import ConfigError
from app.model.folder import ModelFolder
from app.model.pipeline import Pipeline
from app.model.weight_files import check_weights, needed_variant
from tests.app.model.makers import change_weights

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def _without_a_block(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.startswith(("encoder.block.0.", "blocks.1.", "decoder.mid_block."))]:
        del tensors[name]


def _with_scales(tensors: Tensors) -> None:
    for name in [name for name in tensors if name.endswith("ffn.net.2.weight")]:
        tensors[name.replace("weight", "scale_weight")] = torch.ones(1)


def _narrower(tensors: Tensors) -> None:
    tensors["proj_out.bias"] = tensors["proj_out.bias"][:3].clone()


@pytest.mark.parametrize(
    ("component", "damage", "message"),
    [
        (
            "text_encoder",
            _without_a_block,
            r"text_encoder lack 10 tensors \(encoder\.block\.0\.layer\.0\.SelfAttention\.k\.weight, .*, \.\.\.\) that "
            "the model needs; download the folder or save it again",
        ),
        ("transformer", _without_a_block, r"transformer lack 27 tensors \(blocks\.1\.attn1\.norm_k\.weight, "),
        ("vae", _without_a_block, r"vae lack \d+ tensors \(decoder\.mid_block\.attentions\.0\.norm\.gamma, "),
        (
            "transformer",
            _with_scales,
            r"transformer contain 2 tensors \(blocks\.0\.ffn\.net\.2\.scale_weight, .*\.scale_weight\) "
            "that the model does not have; these are scales of FP8 weights, .* set fp8_linear to true",
        ),
        ("transformer", _narrower, r"contain 1 tensor \(proj_out\.bias\) of another shape than config\.json says"),
        (
            "vae",
            lambda tensors: tensors["decoder.conv_out.bias"].fill_(math.nan),
            r"vae contain 1 tensor \(decoder\.conv_out\.bias\) with NaN or infinite values",
        ),
    ],
)
def test_weights_of_another_model_are_refused_by_name(
    component: str, damage: Callable[[Tensors], object], message: str, folder: Path
) -> None:
    change_weights(folder / component, damage)
    with pytest.raises(ConfigError, match=f"MODEL_PATH: the weights in .*{message}"):
        Pipeline(str(folder), torch.device("cpu"))


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight", "both", "neither"])
def test_a_tied_tensor_has_either_of_its_names(kept: str, folder: Path) -> None:
    def rename(tensors: Tensors) -> None:
        tied = tensors.pop("shared.weight")
        names = ["shared.weight", "encoder.embed_tokens.weight"] if kept == "both" else [kept]
        tensors.update({name: tied.clone() for name in names if kept != "neither"})

    change_weights(folder / "text_encoder", rename)
    model = ModelFolder.read(str(folder))
    if kept == "neither":
        with pytest.raises(ConfigError, match=r"lack 2 tensors \(encoder\.embed_tokens\.weight, shared\.weight\)"):
            check_weights(model, folder, None)
    else:
        check_weights(model, folder, None)


def test_a_file_that_is_cut_off_is_named(folder: Path) -> None:
    file = folder / "text_encoder/model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"text_encoder/model\.safetensors is no complete safetensors file: "):
        Pipeline(str(folder), torch.device("cpu"))


def test_all_shards_of_an_index_are_read(folder: Path) -> None:
    import diffusers

    vae = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
    vae.save_pretrained(folder / "vae", max_shard_size="50KB")
    assert len(list((folder / "vae").glob("*-of-*.safetensors"))) > 1
    check_weights(ModelFolder.read(str(folder)), folder, None)
    index = json.loads((folder / "vae/diffusion_pytorch_model.safetensors.index.json").read_text())["weight_map"]
    (folder / "vae" / index["decoder.conv_out.bias"]).unlink()
    with pytest.raises(ConfigError, match=r"does not load as a diffusers pipeline: .*-of-"):
        Pipeline(str(folder), torch.device("cpu"))


@pytest.mark.parametrize(
    ("variants", "components", "chosen"),
    [
        (["fp16"], ["text_encoder", "transformer", "vae"], "fp16"),
        (["bf16"], ["transformer"], "bf16"),
        (["fp16", "bf16"], ["text_encoder", "transformer"], "bf16"),
    ],
)
def test_weights_that_exist_as_variants_alone_are_loaded(
    variants: list[str], components: list[str], chosen: str, folder: Path
) -> None:
    for component in components:
        (file,) = (folder / component).glob("*.safetensors")
        for variant in variants:
            shutil.copy(file, file.with_suffix(f".{variant}.safetensors"))
        file.unlink()
    assert needed_variant(ModelFolder.read(str(folder)), folder) == chosen
    loaded = Pipeline(str(folder), torch.device("cpu"))
    assert len(loaded._transformers) == 1


def test_plain_files_are_preferred_to_variants(folder: Path) -> None:
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    shutil.copy(file, file.with_suffix(".fp16.safetensors"))
    assert needed_variant(ModelFolder.read(str(folder)), folder) is None
