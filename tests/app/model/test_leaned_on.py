"""Every private or undocumented name of another package that app/model uses, one row each.

If a row fails after an upgrade, upstream has renamed or removed the name: read the module of the row's first column and
adapt it. ``pyproject.toml`` bounds diffusers, since most of the names are there.
"""

import importlib
import inspect
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

from app.model.vae_parallel import SUPPORTED
from tests.app.model.makers import VAE_2_1

NAMES = [
    # (module of app/model, module of upstream, name in it)
    ("acceleration", "diffusers.models.attention_dispatch", "attention_backend"),
    ("acceleration", "diffusers.models.attention_dispatch", "dispatch_attention_fn"),
    ("acceleration", "diffusers.models.attention_dispatch", "AttentionBackendName._NATIVE_CUDNN"),
    ("acceleration", "diffusers.models.attention_dispatch", "AttentionBackendName._NATIVE_FLASH"),
    ("acceleration", "torch", "_scaled_mm"),
    ("decoding", "diffusers.models.autoencoders.autoencoder_kl_wan", "unpatchify"),
    ("decoding", "diffusers", "AutoencoderKLWan.clear_cache"),
    ("meta", "diffusers", "WanTransformer3DModel._keep_in_fp32_modules"),
    ("offload", "accelerate.hooks", "ModelHook.pre_forward"),
    ("offload", "accelerate.hooks", "add_hook_to_module"),
    ("offload", "diffusers.utils.torch_utils", "get_module_execution_device"),
    ("peak_memory", "torch.testing._internal.distributed.fake_pg", "FakeStore"),
    ("peak_memory", "torch.utils._python_dispatch", "TorchDispatchMode"),
    ("peak_memory", "torch.utils._pytree", "tree_leaves"),
    ("peak_memory", "torch", "UntypedStorage._cdata"),
    ("transformer_parallel", "diffusers.hooks.context_parallel", "remove_context_parallel"),
    ("transformer_parallel", "diffusers", "WanTransformer3DModel._cp_plan"),
    ("transformer_parallel", "diffusers", "WanTransformer3DModel._parallel_config"),
    ("transformer_parallel", "diffusers.models.transformers.transformer_wan", "WanAttnProcessor._parallel_config"),
    ("uneven_ulysses", "diffusers.hooks.context_parallel", "_all_gather_anything"),
    ("uneven_ulysses", "diffusers.models.attention_dispatch", "gather_size_by_comm"),
    ("vae_parallel", "diffusers.models.autoencoders.autoencoder_kl_wan", "WanAttentionBlock"),
    ("vae_parallel", "diffusers.models.autoencoders.autoencoder_kl_wan", "WanCausalConv3d._conv_forward"),
    ("vae_parallel", "torch.nn", "Conv2d._conv_forward"),
]

ATTRIBUTES = [
    # (module of app/model, object of upstream, attribute of its instances)
    ("decoding", "vae", "_conv_idx"),
    ("decoding", "vae", "_feat_map"),
    ("decoding", "vae", "post_quant_conv"),
    ("vae_parallel", "causal convolution", "_padding"),
    ("vae_parallel", "VAE's attention block", "norm"),
    ("vae_parallel", "VAE's attention block", "proj"),
    ("vae_parallel", "VAE's attention block", "to_qkv"),
]

PARAMETERS = [
    # (module of app/model, module of upstream, function in it, its parameters)
    ("acceleration", "torch.nn.attention", "restore_flash_attention_impl", {"_raise_warn"}),
    ("decoding", "diffusers.models.autoencoders.autoencoder_kl_wan", "WanDecoder3d.forward",
     {"feat_cache", "feat_idx", "first_chunk"}),
    ("uneven_ulysses", "diffusers", "ContextParallelConfig", {"ulysses_degree", "ulysses_anything", "mesh"}),
]  # fmt: skip


def lost(user: str, name: str, owner: str, package: str = "diffusers") -> str:
    return f"{package} {version(package)}: {owner} has no {name}, which app/model/{user}.py uses; adapt that module"


def find(user: str, module: str, path: str) -> Any:
    """Return what ``path`` names in ``module``, or fail with a message that says who uses it."""
    message = lost(user, path, module, module.split(".")[0])
    try:
        found = importlib.import_module(module)
    except ImportError:
        pytest.fail(message)
    for name in path.split("."):
        if not hasattr(found, name):
            pytest.fail(message)
        found = getattr(found, name)
    return found


@pytest.mark.parametrize(("user", "module", "path"), NAMES)
def test_a_private_name_exists(user: str, module: str, path: str) -> None:
    find(user, module, path)


@pytest.fixture(scope="module")
def instances() -> dict[str, Any]:
    with torch.device("meta"):
        vae = AutoencoderKLWan(**VAE_2_1)
    vae.clear_cache()
    return {
        "vae": vae,
        "causal convolution": vae.decoder.conv_in,
        "VAE's attention block": vae.decoder.mid_block.attentions[0],
    }


@pytest.mark.parametrize(("user", "owner", "name"), ATTRIBUTES)
def test_a_private_attribute_exists(user: str, owner: str, name: str, instances: dict[str, Any]) -> None:
    assert hasattr(instances[owner], name), lost(user, name, f"its {owner}")


@pytest.mark.parametrize(("user", "module", "path", "parameters"), PARAMETERS)
def test_an_undocumented_parameter_exists(user: str, module: str, path: str, parameters: set[str]) -> None:
    missing = parameters - set(inspect.signature(find(user, module, path)).parameters)
    assert not missing, lost(user, f"parameter {', '.join(missing)}", path, module.split(".")[0])


def test_a_causal_convolution_pads_before_the_method_that_is_replaced() -> None:
    convolution = WanCausalConv3d(1, 1, 3, padding=1)
    with mock.patch.object(convolution, "_conv_forward", return_value=torch.zeros(())) as replaced:
        convolution(torch.zeros(1, 1, 1, 4, 6))
    assert replaced.called, "app/model/vae_parallel.py: WanCausalConv3d.forward no longer calls _conv_forward"
    assert replaced.call_args.args[0].shape == (1, 1, 3, 6, 8), "app/model/vae_parallel.py: it pads in another place"


def test_only_diffusers_versions_with_these_names_are_installed() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    assert SUPPORTED in project["optional-dependencies"]["app"]
    assert set(WanTransformer3DModel._cp_plan) >= {"rope", "proj_out"}
