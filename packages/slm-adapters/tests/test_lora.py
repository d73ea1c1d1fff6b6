"""LoRA on four architectures: targets, parameter counts, scale, dropout, settings."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from slm_adapters import AdapterError, LoraSettings, add_lora, default_targets, lora_config
from slm_adapters.targets import linear_layers
from slm_testing.adapters.tiny_adapters import MakeModel, all_models, logits


def shape(layer: nn.Module) -> tuple[int, int]:
    """Return the input and output features; Conv1D stores its weight ``[in, out]``."""
    rows, columns = layer.weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def randomize_lora(model: nn.Module) -> None:
    """Draw LoRA's second matrix, which starts at zero."""
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)


@all_models
def test_an_untrained_adapter_changes_no_bit_of_the_logits(tiny: MakeModel, name: str, input_ids: torch.Tensor) -> None:
    before = logits(tiny(name), input_ids)
    adapted = add_lora(tiny(name), LoraSettings()).eval()
    assert torch.equal(logits(adapted, input_ids), before)
    randomize_lora(adapted)
    assert not torch.allclose(logits(adapted, input_ids), before, atol=1e-3)


@all_models
def test_each_layer_trains_r_times_in_plus_out_parameters(tiny: MakeModel, name: str) -> None:
    model = tiny(name)
    sizes = [sum(shape(layer)) for layer in linear_layers(model).values()]
    adapted = add_lora(model, LoraSettings(r=3))
    trained = {at: weight for at, weight in adapted.named_parameters() if weight.requires_grad}
    assert sum(weight.numel() for weight in trained.values()) == 3 * sum(sizes)
    assert all("lora_" in at for at in trained)


def test_only_the_named_targets_are_adapted(tiny: MakeModel) -> None:
    adapted = add_lora(tiny("gpt2"), LoraSettings(target_modules=["h.1.attn.c_proj"]))
    assert {at.split(".lora_")[0] for at, _ in adapted.named_parameters() if "lora_" in at} == {
        "base_model.model.transformer.h.1.attn.c_proj"
    }


@pytest.mark.parametrize("targets", [(), ("c_fc",), ("attn.c_attn", "c_fc"), ("transformer.h.0.mlp.c_proj",)], ids=str)
def test_gpt2s_transposed_layers_are_recognised_without_a_warning(
    tiny: MakeModel, input_ids: torch.Tensor, targets: tuple[str, ...]
) -> None:
    settings = LoraSettings(target_modules=targets)
    assert lora_config(tiny("gpt2"), settings).fan_in_fan_out is True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted = add_lora(tiny("gpt2"), settings).eval()
    randomize_lora(adapted)
    unmerged = logits(adapted, input_ids)
    merged = logits(adapted.merge_and_unload(), input_ids)  # without fan_in_fan_out it has the wrong shape or values
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "neox", "qwen2"])
def test_other_models_are_not_transposed(tiny: MakeModel, name: str) -> None:
    assert lora_config(tiny(name), LoraSettings()).fan_in_fan_out is False


@all_models
def test_plain_peft_loads_what_was_saved(tiny: MakeModel, name: str, input_ids: torch.Tensor, tmp_path: Path) -> None:
    adapted = add_lora(tiny(name), LoraSettings(r=4)).eval()
    randomize_lora(adapted)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(name), tmp_path).eval()
    assert torch.equal(logits(loaded, input_ids), logits(adapted, input_ids))


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale_is_alpha_over_r_or_its_root(tiny: MakeModel, rslora: bool) -> None:
    adapted = add_lora(tiny("gpt2"), LoraSettings(r=4, alpha=6, use_rslora=rslora))
    layer: Any = adapted.get_submodule("base_model.model.transformer.h.0.attn.c_attn")
    assert layer.scaling["default"] == (3 if rslora else 1.5)


def test_dora_adds_a_magnitude_for_each_feature_out(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    before = logits(tiny("llama"), input_ids)
    adapted = add_lora(tiny("llama"), LoraSettings(use_dora=True)).eval()
    assert any("magnitude" in at for at, weight in adapted.named_parameters() if weight.requires_grad)
    torch.testing.assert_close(logits(adapted, input_ids), before, rtol=1e-5, atol=1e-6)


def test_dropout_is_on_the_adapters_input_while_training_only(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    adapted = add_lora(tiny("llama"), LoraSettings(dropout=0.5))
    randomize_lora(adapted)
    adapted.train()
    assert not torch.equal(logits(adapted, input_ids), logits(adapted, input_ids))
    adapted.eval()
    assert torch.equal(logits(adapted, input_ids), logits(adapted, input_ids))


def test_the_adapter_trains_in_float32_on_a_bfloat16_base(tiny: MakeModel) -> None:
    adapted = add_lora(tiny("gpt2").to(torch.bfloat16), LoraSettings())
    kinds = {weight.requires_grad: weight.dtype for weight in adapted.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}


def test_a_target_that_does_not_exist_is_refused_and_the_model_is_unchanged(tiny: MakeModel) -> None:
    model = tiny("gpt2")
    with pytest.raises(AdapterError, match=r"'q_proj' matches no linear layer.*c_attn, c_fc, c_proj"):
        add_lora(model, LoraSettings(target_modules=["c_attn", "q_proj"]))
    assert default_targets(model) == ["c_attn", "c_fc", "c_proj"]
    assert all(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"r": 0}, "--lora_r 0 must be at least 1"),
        ({"r": -8}, "--lora_r -8 must be at least 1"),
        ({"alpha": 0}, "--lora_alpha 0 must be a number above 0"),
        ({"alpha": -1.5}, "--lora_alpha -1.5 must be a number above 0"),
        ({"alpha": float("nan")}, "--lora_alpha nan must be"),
        ({"alpha": float("inf")}, "--lora_alpha inf must be"),
        ({"dropout": 1}, "--lora_dropout 1 must be at least 0 and below 1"),
        ({"dropout": -0.1}, "--lora_dropout -0.1 must be at least 0 and below 1"),
        ({"dropout": float("nan")}, "--lora_dropout nan must be"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_when_they_are_created(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        LoraSettings(**wrong)
