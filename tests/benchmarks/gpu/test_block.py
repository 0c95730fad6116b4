from dataclasses import replace

import pytest
import torch

from app.model.hub_configs import built_in
from app.model.meta import meta_module
from benchmarks.gpu import block
from benchmarks.gpu.works import WORKS, example_inputs


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object_at", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16", "attention"),
        ("nvjet_sm90_tst_192x208_64x4_1x2_h_bz_coopB_bias_TNT", "linear"),
        ("triton_red_fused__fused_rms_norm__scaled_dot_product_flash_attention_permute_view_3", "else"),
        ("Memset (Device)", "else"),
    ],
)
def test_a_kernel_counts_as_what_it_computes(kernel: str, kind: str) -> None:
    assert block._kind(kernel) == kind


@pytest.mark.parametrize("name", ["A14B-480p81", "5B-704p121"])
def test_a_block_is_measured_with_what_its_transformer_gives_it(name: str) -> None:
    work = replace(WORKS[name], width=64, height=64, num_frames=5)
    model = built_in(work.model or "")
    assert model is not None
    transformer = meta_module(model, "transformer", num_layers=1)
    with torch.inference_mode():
        hidden, text, *_ = block._inputs_of(
            transformer.blocks[0], transformer, example_inputs(model, transformer, work)
        )
    assert hidden.shape[1] == model.tokens(64, 64, 5)
    assert hidden.shape[2] == text.shape[2] == transformer.config.num_attention_heads * 128


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["block"])
    with pytest.raises(SystemExit):
        block.main()
    assert "torch sees no GPU here" in capsys.readouterr().err
