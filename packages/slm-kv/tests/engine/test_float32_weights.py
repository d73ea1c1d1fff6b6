"""Weights are held in float32 exactly, with little memory, and are afterwards as they were."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slm_kv.engine.verification.float32_weights import float32_weights
from slm_testing.kv.tiny_models import make_model

IDS = torch.arange(1, 12)[None]
NAMES = ["llama", "tied_llama", "gpt2", "neox", "opt"]


def low_model(name: str) -> Any:
    return make_model(name).to(torch.bfloat16).eval()


def forward_of(model: Any) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(IDS, use_cache=False).logits
        return logits

    return forward


def float32_logits(model: Any) -> Tensor:
    return forward_of(copy.deepcopy(model).float())()


def addresses(model: nn.Module) -> list[int]:
    return [parameter.data_ptr() for parameter in model.parameters()]


def held_numbers(model: nn.Module) -> int:
    """The numbers in memory behind all parameters, each storage once."""
    storages = [parameter.untyped_storage() for parameter in model.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() // 4 for storage in storages}.values())


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_the_model_in_float32(name: str) -> None:
    model = low_model(name)
    expected, before = float32_logits(model), addresses(model)
    with float32_weights(model, forward_of(model)) as exact:
        assert exact
        assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
        assert torch.equal(forward_of(model)(), expected)
    assert addresses(model) == before
    assert all(parameter.dtype is torch.bfloat16 for parameter in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_linear_layers_share_the_memory_of_the_largest(name: str) -> None:
    model = low_model(name)
    weights = [module.weight.numel() for module in model.modules() if type(module) in (nn.Linear, Conv1D)]
    head = 0 if name == "llama" else model.lm_head.weight.numel()  # gpt2's is also the embedding, which reads it
    if head:
        weights.remove(head)
    others = sum(parameter.numel() for parameter in model.parameters()) - sum(weights)
    with float32_weights(model, forward_of(model)):
        forward_of(model)()
        assert held_numbers(model) <= others + max(weights) + len(weights)  # and a number for each that is not held


class Reading(nn.Module):
    """A layer that multiplies by the weight of another one itself."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


def test_a_weight_that_is_read_outside_of_its_layer_is_copied() -> None:
    model = low_model("llama")
    expected = float32_logits(model)
    model.model.layers[0].mlp.up_proj = Reading(model.model.layers[0].mlp.up_proj)
    with float32_weights(model, forward_of(model)) as exact:
        assert exact
        assert torch.equal(forward_of(model)(), expected)


def test_an_adapter_that_reads_its_base_layer_gets_the_whole_weight() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, use_dora=True)
    model: Any = get_peft_model(low_model("llama"), config).eval()
    expected = float32_logits(model)
    with float32_weights(model, forward_of(model)):
        assert torch.equal(forward_of(model)(), expected)


def test_a_forward_pass_that_fails_leaves_the_error_to_the_caller() -> None:
    model = low_model("llama")

    def fail() -> Tensor:
        raise RuntimeError("the model's own")

    with float32_weights(model, fail) as exact:
        assert exact
    assert all(parameter.dtype is torch.bfloat16 for parameter in model.parameters())


def test_an_error_inside_restores_weights_and_hooks() -> None:
    model = low_model("gpt2")
    expected, before = forward_of(model)(), addresses(model)
    with pytest.raises(KeyError), float32_weights(model, forward_of(model)):
        raise KeyError
    assert addresses(model) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(forward_of(model)(), expected)


def test_shared_weights_are_not_touched() -> None:
    model = low_model("llama")
    with float32_weights(model, forward_of(model), shared=True) as exact:
        assert not exact
        assert all(parameter.dtype is torch.bfloat16 for parameter in model.parameters())
