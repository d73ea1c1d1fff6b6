"""Layers that a butterfly is applied to, what is trained there, and what is refused."""

import math
from typing import Any

import pytest
import torch
from peft import inject_adapter_in_model

from slm_adapters import AdapterError, ButterflyConfig, LoraSettings, add_lora
from slm_testing.adapters.tiny_adapters import (
    LLAMA_LINEAR_LAYERS,
    MakeModel,
    assert_close,
    butterfly,
    layers,
    logits,
    random_butterfly,
)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {(block, name) for block in "01" for name in LLAMA_LINEAR_LAYERS}),
        ({"target_modules": "all-linear"}, {(block, name) for block in "01" for name in LLAMA_LINEAR_LAYERS}),
        ({"target_modules": ["q_proj", "mlp.down_proj"]}, {(b, n) for b in "01" for n in ("q_proj", "down_proj")}),
        ({"layers_to_transform": [1]}, {("1", name) for name in LLAMA_LINEAR_LAYERS}),
        ({"target_modules": ["v_proj"], "layers_to_transform": 0}, {("0", "v_proj")}),
        (
            {"exclude_modules": ["v_proj", "up_proj"]},
            {(b, n) for b in "01" for n in LLAMA_LINEAR_LAYERS if n not in ("v_proj", "up_proj")},
        ),
        ({"target_modules": r".*\.1\..*(q|k)_proj"}, {("1", "q_proj"), ("1", "k_proj")}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",  # sets print in varying order
)
def test_layers_are_selected_as_in_every_peft_method(
    tiny: MakeModel, settings: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    adapted = butterfly(tiny("llama"), **settings)
    actual = {(layer_name.split(".layers.")[1][0], layer_name.rpartition(".")[2]) for layer_name in layers(adapted)}
    assert actual == expected


def test_the_head_is_adapted_if_it_is_named(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    adapted = random_butterfly(tiny("llama"), target_modules=["lm_head"], side="input")
    assert [at.rpartition(".")[2] for at in layers(adapted)] == ["lm_head"]
    unmerged = logits(adapted, input_ids)
    assert_close(logits(adapted.merge_and_unload(), input_ids), unmerged)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_proj", "c_attn"]}, r"target module 'c_attn' matches no layer"),
        ({"target_modules": ["embed_tokens"]}, r"embed_tokens \(class Embedding\) is not a linear layer"),
        ({"block_size": 24}, r"q_proj: butterfly block size 24 does not divide the width 64; use one of 2, 4, .*64"),
        ({"side": "both", "block_size": 64}, r"k_proj: butterfly block size 64 does not divide the width 32"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_the_model_are_refused_with_the_layer_name(
    tiny: MakeModel, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        butterfly(tiny("llama"), **settings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"side": "left"}, "side 'left' must be one of input, output, both, auto"),
        ({"block_size": 1}, "block size 1 must be at least 2"),
        ({"block_size": -8}, "block size -8 must be at least 2"),
        ({"stages": 0}, "stages 0 must be from 1 to 64"),
        ({"stages": 65}, "stages 65 must be from 1 to 64"),
        ({"strength": math.nan}, "strength nan must be a finite number"),
        ({"strength": math.inf}, "strength inf must be a finite number"),
        ({"angle_dropout": 1.0}, "angle dropout 1.0 must be at least 0 and below 1"),
        ({"angle_dropout": -0.5}, "angle dropout -0.5 must be"),
        ({"layers_pattern": "h"}, "layers_pattern names the list that layers_to_transform indexes"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_when_they_are_created(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        ButterflyConfig(**wrong)


def test_another_method_on_the_same_layer_is_refused(tiny: MakeModel) -> None:
    mixed = add_lora(tiny("llama"), LoraSettings(target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match=r"q_proj already has an adapter of another method; merge or unload"):
        inject_adapter_in_model(ButterflyConfig(target_modules=["q_proj"]), mixed.base_model.model)
