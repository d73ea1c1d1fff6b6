"""Loading other values into a butterfly adapter that exists, hot-swapping, and adapters of other methods."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftMixedModel,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.utils.hotswap import hotswap_adapter, hotswap_adapter_from_state_dict

from slm_adapters import AdapterError, ButterflyConfig
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    assert_same_bits,
    copy_state,
    layers,
    logits,
    random_butterfly,
)

SETTINGS: dict[str, Any] = {"side": "input", "block_size": 16, "stages": 3, "scale": True}


def save(adapted: PeftModel, folder: Path) -> str:
    adapted.save_pretrained(folder)
    return str(folder)


def test_values_of_another_strength_are_refused_for_an_existing_adapter(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    source = random_butterfly(tiny("llama"), seed=1, strength=0.5, side="input")
    source.save_pretrained(tmp_path)
    adapted = random_butterfly(tiny("llama"), side="input")
    with pytest.raises(AdapterError, match=r"strength 0.5, and .* has strength 1; call set_strength\(0.5"):
        adapted.load_adapter(str(tmp_path), "default")
    adapted.base_model.set_strength(0.5, "default")
    adapted.load_adapter(str(tmp_path), "default")
    assert torch.equal(logits(adapted, input_ids), logits(source, input_ids))


def test_another_adapters_angles_are_not_written(tiny: MakeModel) -> None:
    adapted = random_butterfly(tiny("llama"))
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM"))
    tensors = get_peft_model_state_dict(adapted, adapter_name="other")
    name = next(iter(layers(adapted)))
    part = next(iter(layers(adapted)[name].rotations["default"]))
    tensors[f"base_model.model.{name}.{part}.default"] = torch.zeros(1)
    with pytest.raises(AdapterError, match=r"the checkpoint has .*\.default, which this model does not have"):
        set_peft_model_state_dict(adapted, tensors, adapter_name="other")


def test_values_are_not_loaded_into_a_merged_adapter(tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path) -> None:
    save(random_butterfly(tiny("llama"), seed=1), tmp_path)
    adapted = random_butterfly(tiny("llama"))
    expected = logits(adapted, input_ids)
    adapted.merge_adapter()
    with pytest.raises(AdapterError, match=r"adapter 'default' is merged; call unmerge_adapter before"):
        adapted.load_adapter(str(tmp_path), "default")
    adapted.unmerge_adapter()
    assert torch.equal(logits(adapted, input_ids), expected)


def test_hot_swapping_is_refused_with_the_remedy(tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path) -> None:
    source = random_butterfly(tiny("llama"), seed=1, **SETTINGS)
    folder = save(source, tmp_path)
    adapted, model = random_butterfly(tiny("llama"), **SETTINGS), tiny("llama")
    model.load_adapter(folder)
    expected = logits(adapted, input_ids)
    remedy = r"hot-swapping supports LoRA only; load_adapter\(folder, 'default'\) replaces the angles"
    with pytest.raises(AdapterError, match=remedy):
        hotswap_adapter(adapted, folder, "default", torch_device="cpu")
    for prefix in ("lora_", "butterfly_"):
        with pytest.raises(AdapterError, match=remedy):
            hotswap_adapter_from_state_dict(adapted, {}, "default", adapted.peft_config["default"], prefix)
    with pytest.raises(ValueError, match=r"only supported for LoRA"):
        model.load_adapter(folder, "default", hotswap=True)
    assert torch.equal(logits(adapted, input_ids), expected)
    adapted.load_adapter(folder, "default")
    assert torch.equal(logits(adapted, input_ids), logits(source, input_ids))


def test_mixed_models_and_other_methods_are_refused(tiny: MakeModel, tmp_path: Path) -> None:
    save(random_butterfly(tiny("llama")), tmp_path / "butterfly")
    lora = get_peft_model(tiny("llama"), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    lora.save_pretrained(tmp_path / "lora")
    adapted = random_butterfly(tiny("llama"))
    for load, message in (
        (lambda: get_peft_model(tiny("llama"), ButterflyConfig(), mixed=True), r"not compatible with the `PeftMixedMo"),
        (lambda: PeftMixedModel.from_pretrained(tiny("llama"), tmp_path / "butterfly"), r"not supported for mixed mod"),
        (lambda: lora.load_adapter(str(tmp_path / "butterfly"), "other"), r"different peft types"),
        (lambda: adapted.load_adapter(str(tmp_path / "lora"), "other"), r"different peft types"),
        (lambda: adapted.load_adapter(str(tmp_path / "lora"), "default"), r"method LORA, not a butterfly"),
    ):
        with pytest.raises(ValueError, match=message):
            load()
    assert list(lora.peft_config) == list(adapted.peft_config) == ["default"]


@pytest.mark.parametrize("first", [{}, {"modules_to_save": ["lm_head"]}], ids=["plain", "trained head"])
def test_a_refused_adapter_leaves_no_copy_of_the_modules_that_it_trains(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path, first: dict[str, Any]
) -> None:
    source = random_butterfly(tiny("llama"), modules_to_save=["lm_head"])
    with torch.no_grad():
        source.base_model.model.lm_head.modules_to_save["default"].weight[0, 0] = torch.nan
    save(source, tmp_path)
    adapted = random_butterfly(tiny("llama"), **first)
    expected, state = logits(adapted, input_ids), copy_state(adapted)
    trained = [name for name, values in adapted.named_parameters() if values.requires_grad]
    with pytest.raises(AdapterError, match=r"lm_head.*: the checkpoint has values that are not finite"):
        adapted.load_adapter(str(tmp_path), "second")
    assert_same_bits(copy_state(adapted), state)
    assert [name for name, values in adapted.named_parameters() if values.requires_grad] == trained
    assert torch.equal(logits(adapted, input_ids), expected)
