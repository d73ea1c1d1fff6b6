"""Several butterfly adapters on one model: weighted sums, rows of a batch, order, strength."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from slm_adapters import AdapterError, ButterflyConfig
from slm_testing.adapters.tiny_adapters import (
    SETTINGS,
    MakeModel,
    all_models,
    assert_differ,
    butterfly,
    layers,
    logits,
    random_butterfly,
    randomize_angles,
)


def test_a_weighted_sum_of_adapters_has_the_weighted_angles(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    adapted = random_butterfly(tiny("llama"), side="both", scale=True)
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM", side="both", scale=True, strength=0.5))
    randomize_angles(adapted, "other", seed=1)
    adapted.base_model.add_weighted_adapter(["default", "other"], [0.25, 2], "sum")
    for layer in layers(adapted).values():
        for part in (layer.butterfly_input, layer.butterfly_output, layer.butterfly_magnitude):
            torch.testing.assert_close(part["sum"], 0.25 * part["default"] + 2 * 0.5 * part["other"])
    adapted.base_model.add_weighted_adapter(["default", "other"], [1, 0], "first")
    expected = logits(adapted, input_ids)
    adapted.set_adapter("first")
    assert torch.equal(logits(adapted, input_ids), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["default", "like"], [1, 1], "sum", "svd"), "not by svd"),
        ((["default", "like"], [1, 1], "sum", "ties"), "not by ties"),
        ((["default", "like"], [1], "sum"), "give one weight for each adapter, not 1 for 2"),
        (([], [], "sum"), "give one weight for each adapter, not 0 for 0"),
        ((["default", "missing"], [1, 1], "sum"), "no adapter 'missing'; there are default, like, unlike, elsewhere"),
        ((["default", "unlike"], [1, 1], "sum"), "'default' and 'unlike' differ in side"),
        ((["default", "elsewhere"], [1, 1], "sum"), "not all of default, elsewhere adapt .*q_proj"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sums_of_adapters_that_do_not_match_are_refused(
    tiny: MakeModel, arguments: tuple[Any, ...], message: str
) -> None:
    adapted = butterfly(tiny("llama"), side="input")
    for name, settings in {
        "like": {"side": "input"},
        "unlike": {"side": "output"},
        "elsewhere": {"side": "input", "target_modules": ["v_proj"]},
    }.items():
        adapted.add_adapter(name, ButterflyConfig(task_type="CAUSAL_LM", **settings))
    with pytest.raises(AdapterError, match=message):
        adapted.base_model.add_weighted_adapter(*arguments)
    assert set(adapted.peft_config) == {"default", "like", "unlike", "elsewhere"}


def with_three_adapters(model: PreTrainedModel) -> PeftModel:
    adapted = random_butterfly(model, side="both", scale=True)
    for seed, (name, settings) in enumerate(
        {"one": {"side": "input", "block_size": 8}, "two": {"side": "output"}}.items()
    ):
        adapted.add_adapter(name, ButterflyConfig(task_type="CAUSAL_LM", **settings))
        randomize_angles(adapted, name, seed + 1)
    return adapted.eval()


@all_models
def test_each_row_of_a_batch_has_its_own_adapter(tiny: MakeModel, name: str) -> None:
    adapted = with_three_adapters(tiny(name))
    names = ["two", "__base__", "default", "one", "two", "default"]
    input_ids = torch.randint(0, 48, (6, 7), generator=torch.Generator().manual_seed(1))
    batch_logits = logits(adapted, input_ids, adapter_names=names)
    for row, adapter in enumerate(names):
        adapted.set_adapter("default" if adapter == "__base__" else adapter)
        expected = (
            logits(tiny(name), input_ids[row : row + 1])
            if adapter == "__base__"
            else logits(adapted, input_ids[row : row + 1])
        )
        torch.testing.assert_close(batch_logits[row : row + 1], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(adapted, input_ids, adapter_names=["__base__"] * 6), logits(tiny(name), input_ids))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_each_row_generates_with_its_own_adapter(tiny: MakeModel, num_beams: int) -> None:
    adapted = with_three_adapters(tiny("llama"))
    prompt = torch.randint(2, 48, (1, 4), generator=torch.Generator().manual_seed(2))
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": num_beams, "pad_token_id": 1}
    names = ["one", "__base__", "two", "default"]
    batch_tokens = adapted.generate(input_ids=prompt.expand(4, -1), adapter_names=names, **options)
    assert len({tuple(row) for row in batch_tokens.tolist()}) > 1
    for row, adapter in zip(batch_tokens, names, strict=True):
        model: Any = tiny("llama") if adapter == "__base__" else adapted
        if adapter != "__base__":
            adapted.set_adapter(adapter)
        assert torch.equal(model.generate(input_ids=prompt, **options)[0], row)


def test_invalid_adapter_names_are_refused_and_leave_no_hook(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    adapted = with_three_adapters(tiny("llama"))
    before = logits(adapted, input_ids)
    with pytest.raises(AdapterError, match=r"no adapter 'missing'; there are default, one, two"):
        logits(adapted, input_ids, adapter_names=["one", "missing"])
    with pytest.raises(AdapterError, match=r"adapter_names has 3 names for a batch of 2 rows"):
        logits(adapted, input_ids, adapter_names=["one", "two", "one"])
    adapted.merge_adapter()
    with pytest.raises(AdapterError, match=r"adapter_names needs the adapters unmerged"):
        logits(adapted, input_ids, adapter_names=["one", "two"])
    adapted.unmerge_adapter()
    with pytest.raises(AdapterError, match=r"adapter_names is for inference; call model.eval"):
        adapted.train()(input_ids=input_ids, adapter_names=["one", "two"])
    assert torch.equal(logits(adapted.eval(), input_ids), before)


@all_models
def test_several_active_adapters_act_as_if_merged_in_order(tiny: MakeModel, name: str, input_ids: torch.Tensor) -> None:
    a, b = SETTINGS["output-scale"], {"side": "both", "scale": True, "block_size": 16}
    first = random_butterfly(tiny(name).double(), **a).merge_and_unload()
    expected = logits(random_butterfly(first, seed=1, **b), input_ids)
    adapted = random_butterfly(tiny(name).double(), **a)
    adapted.add_adapter("last", ButterflyConfig(task_type="CAUSAL_LM", **b))
    randomize_angles(adapted, "last", seed=1)
    adapted.base_model.set_adapter(["default", "last"])
    torch.testing.assert_close(logits(adapted, input_ids), expected, rtol=0, atol=1e-10)
    adapted.merge_adapter(["default", "last"])
    torch.testing.assert_close(logits(adapted, input_ids), expected, rtol=0, atol=1e-10)
    adapted.unmerge_adapter()
    adapted.base_model.set_adapter(["last", "default"])
    assert_differ(logits(adapted, input_ids), expected)


@all_models
def test_strength_scales_the_angles_and_zero_is_the_base(
    tiny: MakeModel, name: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = random_butterfly(tiny(name), side="both", scale=True)
    whole = logits(adapted, input_ids)
    adapted.base_model.set_strength(0)
    assert torch.equal(logits(adapted, input_ids), logits(tiny(name), input_ids))
    adapted.merge_adapter()
    assert torch.equal(logits(adapted, input_ids), logits(tiny(name), input_ids))
    adapted.unmerge_adapter()
    adapted.base_model.set_strength(0.7)
    scaled = random_butterfly(tiny(name), side="both", scale=True)
    with torch.no_grad():
        for at, values in scaled.named_parameters():
            if "butterfly_" in at:
                values.mul_(0.7)
    expected = logits(scaled, input_ids)
    assert torch.equal(logits(adapted, input_ids), expected)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny(name), tmp_path), input_ids), expected)
    adapted.base_model.set_strength(1)
    assert torch.equal(logits(adapted, input_ids), whole)


def test_set_strength_changes_only_the_named_adapter(tiny: MakeModel) -> None:
    adapted = with_three_adapters(tiny("llama"))
    adapted.base_model.set_strength(0.25, "one")
    assert {name: config.strength for name, config in adapted.peft_config.items()} == {
        "default": 1,
        "one": 0.25,
        "two": 1,
    }
    with pytest.raises(AdapterError, match=r"no adapter 'missing'"):
        adapted.base_model.set_strength(0.5, "missing")
    adapted.merge_adapter(["one"])
    with pytest.raises(AdapterError, match=r"cannot change the strength of adapter 'one' while it is merged"):
        adapted.base_model.set_strength(0.5, "one")


@pytest.mark.parametrize("strength", [math.nan, math.inf])
def test_set_strength_refuses_values_that_are_not_finite(tiny: MakeModel, strength: float) -> None:
    adapted = butterfly(tiny("llama"))
    with pytest.raises(AdapterError, match=r"strength .* must be a finite number"):
        adapted.base_model.set_strength(strength)
