"""Weighted sums of butterfly adapters: a new adapter, or a refusal that changes nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from slm_adapters import AdapterError, ButterflyConfig
from slm_adapters.butterfly.method import tuner
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    assert_differ,
    assert_same_bits,
    copy_state,
    layers,
    logits,
    random_butterfly,
    randomize_angles,
)

SETTINGS: dict[str, Any] = {"side": "both", "scale": True}


def with_two_adapters(tiny: MakeModel) -> PeftModel:
    """Return a model with the adapters default, active, and other, of strength 0.5."""
    adapted = random_butterfly(tiny("llama"), **SETTINGS)
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM", strength=0.5, **SETTINGS))
    randomize_angles(adapted, "other", seed=1)
    return adapted.eval()


def logits_of(adapted: PeftModel, name: str, input_ids: torch.Tensor) -> torch.Tensor:
    adapted.set_adapter(name)
    return logits(adapted, input_ids)


@pytest.mark.parametrize("target", ["default", "other"])
def test_an_existing_adapter_is_not_replaced(tiny: MakeModel, target: str) -> None:
    adapted = with_two_adapters(tiny)
    before = copy_state(adapted)
    with pytest.raises(AdapterError, match=rf"there is an adapter '{target}' already; choose another name, or delete"):
        adapted.base_model.add_weighted_adapter(["default", "other"], [1, 1], target)
    assert_same_bits(copy_state(adapted), before)
    assert adapted.peft_config["other"].strength == 0.5


@pytest.mark.parametrize(
    "combination_type",
    [
        "svd",
        "cat",
        "ties",
        "ties_svd",
        "dare_ties",
        "dare_linear",
        "dare_ties_svd",
        "dare_linear_svd",
        "magnitude_prune",
    ],
)
def test_combinations_that_are_not_sums_of_angles_are_refused_by_name(tiny: MakeModel, combination_type: str) -> None:
    adapted = with_two_adapters(tiny)
    with pytest.raises(AdapterError, match=rf"combination_type='linear'\), not by {combination_type}$"):
        adapted.base_model.add_weighted_adapter(["default", "other"], [1, 1], "sum", combination_type)
    assert set(adapted.peft_config) == {"default", "other"}


@pytest.mark.parametrize("option", [{"svd_rank": 4}, {"density": 0.5}, {"majority_sign_method": "frequency"}])
def test_options_without_effect_are_refused_by_name(tiny: MakeModel, option: dict[str, Any]) -> None:
    adapted = with_two_adapters(tiny)
    with pytest.raises(AdapterError, match=rf"{next(iter(option))}=.* has no effect on a sum of angles; leave it out"):
        adapted.base_model.add_weighted_adapter(["default", "other"], [1, 1], "sum", "linear", **option)
    adapted.base_model.add_weighted_adapter(["default", "other"], [1, 1], "sum", "linear", svd_rank=None, density=None)


def test_the_strength_of_each_adapter_is_part_of_the_sum_and_is_saved(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = with_two_adapters(tiny)
    adapted.base_model.add_weighted_adapter(["other"], [1], "same")
    assert torch.equal(logits_of(adapted, "same", input_ids), logits_of(adapted, "other", input_ids))
    assert adapted.peft_config["same"].strength == 1
    adapted.base_model.set_strength(0.25, "same")
    halved = logits_of(adapted, "same", input_ids)
    adapted.base_model.set_strength(0.125, "other")
    torch.testing.assert_close(logits_of(adapted, "other", input_ids), halved)
    adapted.save_pretrained(tmp_path, selected_adapters=["same"])
    assert torch.equal(logits(PeftModel.from_pretrained(tiny("llama"), tmp_path / "same"), input_ids), halved)


def test_a_negative_weight_turns_back_and_zero_leaves_out(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    adapted = random_butterfly(tiny("llama"), side="output", stages=1, block_size=2)  # planes, so rotations commute
    adapted.base_model.add_weighted_adapter(["default"], [-1], "back")
    adapted.base_model.add_weighted_adapter(["default"], [0], "nothing")
    base = logits(tiny("llama"), input_ids)
    assert_differ(logits(adapted, input_ids), base)
    adapted.base_model.set_adapter(["default", "back"])
    torch.testing.assert_close(logits(adapted, input_ids), base)
    adapted.set_adapter("nothing")
    torch.testing.assert_close(logits(adapted, input_ids), base)


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tiny: MakeModel, weight: float) -> None:
    with pytest.raises(AdapterError, match=rf"the weight of adapter 'other' is {weight}; it must be a finite number"):
        with_two_adapters(tiny).base_model.add_weighted_adapter(["default", "other"], [1, weight], "sum")


@pytest.mark.parametrize(
    "settings", [{"modules_to_save": ["lm_head"]}, {"trainable_token_indices": {"embed_tokens": [1, 2]}}], ids=str
)
def test_adapters_that_train_other_modules_too_are_refused(tiny: MakeModel, settings: dict[str, Any]) -> None:
    adapted = random_butterfly(tiny("llama"))
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM", **settings))
    before = copy_state(adapted)
    with pytest.raises(AdapterError, match=rf"adapter 'other' has trained \w+ too \({next(iter(settings))}\)"):
        adapted.base_model.add_weighted_adapter(["default", "other"], [1, 1], "sum")
    assert_same_bits(copy_state(adapted), before)


def test_a_failure_half_way_leaves_no_adapter(
    tiny: MakeModel, input_ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = with_two_adapters(tiny).train()
    before, expected = copy_state(adapted), logits(adapted, input_ids)
    trained = {name for name, values in adapted.named_parameters() if values.requires_grad}
    calls: list[Any] = []

    def fail(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError

    monkeypatch.setattr(tuner, "fill_with_sum", fail)
    with pytest.raises(MemoryError):
        adapted.base_model.add_weighted_adapter(["default", "other"], [1, 1], "sum")
    assert_same_bits(copy_state(adapted), before)
    assert set(adapted.peft_config) == {"default", "other"}
    assert not any("sum" in layer.strength for layer in layers(adapted).values())
    assert {name for name, values in adapted.named_parameters() if values.requires_grad} == trained
    assert torch.equal(logits(adapted, input_ids), expected)


def test_a_refused_layer_leaves_the_model_as_it_was(tiny: MakeModel) -> None:
    model: Any = tiny("llama")
    before = copy_state(model)
    with pytest.raises(AdapterError, match=r"k_proj"):  # 32 outputs, after layers of 64
        random_butterfly(model, side="output", block_size=64, target_modules=["q_proj", "k_proj"])
    assert_same_bits(copy_state(model), before)
    assert not layers(model)
    assert all(values.requires_grad for values in model.parameters())
