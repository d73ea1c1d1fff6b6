"""Butterfly adapters through PEFT's own functions, on models of four architectures."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from slm_adapters import ButterflyConfig, ButterflyLayer
from slm_adapters.layer_laws import saved_is_loaded
from slm_testing.adapters.tiny_adapters import (
    SETTINGS,
    MakeModel,
    all_models,
    assert_differ,
    assert_same_bits,
    butterfly,
    copy_state,
    layers,
    logits,
    random_butterfly,
    randomize_angles,
    weight,
)


def test_the_law_of_saving_leaves_the_model_unchanged_and_fails_when_something_is_lost(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = random_butterfly(tiny("llama"))
    before = copy_state(adapted)
    saved_is_loaded(adapted, input_ids, tmp_path)
    assert_same_bits(copy_state(adapted), before)
    assert (adapted.active_adapter, list(adapted.peft_config)) == ("default", ["default"])
    for layer in layers(adapted).values():
        layer.set_scale("default", 0.5)  # which the configuration does not know
    with pytest.raises(AssertionError, match=r"'default' gives other logits after it was saved and loaded"):
        saved_is_loaded(adapted, input_ids, tmp_path)


@all_models
def test_each_of_two_adapters_acts_as_if_alone(tiny: MakeModel, name: str, input_ids: torch.Tensor) -> None:
    settings, other_settings = SETTINGS["both-blocks"], SETTINGS["output-scale"]
    adapted = random_butterfly(tiny(name), **settings)
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM", **other_settings))
    randomize_angles(adapted, "other", seed=1)
    expected = {"default": logits(random_butterfly(tiny(name), **settings), input_ids)}
    expected["other"] = logits(random_butterfly(tiny(name), seed=1, **other_settings), input_ids)
    assert_differ(expected["default"], expected["other"])
    for adapter in ("default", "other", "default"):
        adapted.set_adapter(adapter)
        assert torch.equal(logits(adapted, input_ids), expected[adapter])
        trained = {key.rpartition(".")[2] for key, values in adapted.named_parameters() if values.requires_grad}
        assert trained == {adapter}


@pytest.mark.parametrize("round", range(3))
def test_a_reused_adapter_name_does_not_restore_old_angles(
    tiny: MakeModel, input_ids: torch.Tensor, round: int
) -> None:
    adapted = butterfly(tiny("llama"))
    adapted.add_adapter("again", ButterflyConfig(task_type="CAUSAL_LM", init_weights=False))
    adapted.set_adapter("again")
    logits(adapted, input_ids)  # caches rotations
    adapted.delete_adapter("again")
    torch.manual_seed(round)
    adapted.add_adapter("again", ButterflyConfig(task_type="CAUSAL_LM", init_weights=False))
    adapted.set_adapter("again")
    actual = logits(adapted, input_ids)
    adapted.train().eval()  # drops whatever is cached
    assert torch.equal(actual, logits(adapted, input_ids))


@all_models
def test_a_bfloat16_base_has_angles_in_float32(
    tiny: MakeModel, name: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    expected = logits(random_butterfly(tiny(name), side="both", scale=True), input_ids)
    adapted = random_butterfly(tiny(name).to(torch.bfloat16), side="both", scale=True)
    assert {values.requires_grad: values.dtype for values in adapted.parameters()} == {
        True: torch.float32,
        False: torch.bfloat16,
    }
    actual = logits(adapted, input_ids)
    assert actual.dtype == torch.bfloat16
    assert (actual.float() - expected).norm() / expected.norm() < 0.05
    adapted.save_pretrained(tmp_path)
    assert {values.dtype for values in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    before = copy_state(adapted)
    adapted.merge_adapter()
    assert {values.dtype for values in adapted.parameters()} == {torch.float32, torch.bfloat16}
    assert (logits(adapted, input_ids).float() - expected).norm() / expected.norm() < 0.05
    adapted.unmerge_adapter()
    assert_same_bits(copy_state(adapted), before)


@all_models
def test_angles_set_from_a_state_take_effect_at_once(tiny: MakeModel, name: str, input_ids: torch.Tensor) -> None:
    settings = SETTINGS["both-blocks"]
    source, adapted = (
        random_butterfly(tiny(name), seed=5, **settings),
        random_butterfly(tiny(name), **settings),
    )
    expected = logits(source, input_ids)
    assert_differ(logits(adapted, input_ids), expected)
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(source))
    assert torch.equal(logits(adapted, input_ids), expected)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_file_loaded_into_the_same_name_takes_effect_at_once(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path, low_cpu_mem_usage: bool
) -> None:
    source, adapted = random_butterfly(tiny("gpt2"), seed=5), random_butterfly(tiny("gpt2"))
    source.save_pretrained(tmp_path)
    assert_differ(logits(adapted, input_ids), logits(source, input_ids))
    adapted.load_adapter(str(tmp_path), "default", low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(adapted, input_ids), logits(source, input_ids))


def test_with_angle_dropout_a_layer_still_rotates() -> None:
    torch.manual_seed(0)
    config = ButterflyConfig(side="output", angle_dropout=0.5)
    layer = ButterflyLayer(nn.Linear(16, 32), "default", config, "layer")
    randomize_angles(layer)
    x = torch.randn(4, 16)
    length = layer.base_layer(x).norm(dim=-1)
    layer.train()
    first, second = layer(x), layer(x)
    assert_differ(first, second)
    for y in (first, second):
        torch.testing.assert_close(y.norm(dim=-1), length)
    layer.eval()
    plain = ButterflyLayer(layer.base_layer, "default", ButterflyConfig(side="output"), "layer").eval()
    randomize_angles(plain)
    assert torch.equal(layer(x), layer(x))
    torch.testing.assert_close(layer(x), plain(x))


@all_models
@pytest.mark.parametrize("side", ["input", "output", "both"])
def test_each_side_preserves_what_is_documented(tiny: MakeModel, name: str, side: str) -> None:
    adapted = random_butterfly(tiny(name).double(), side=side)
    before = {layer_name: weight(layer.get_base_layer()) for layer_name, layer in layers(adapted).items()}
    adapted.merge_adapter()
    preserved: dict[str, list[bool]] = {"rows": [], "columns": []}
    for layer_name, layer in layers(adapted).items():
        old, new = before[layer_name], weight(layer.get_base_layer())
        assert_differ(old, new)
        singular_values = torch.linalg.svdvals(old)
        torch.testing.assert_close(torch.linalg.svdvals(new), singular_values, rtol=0, atol=1e-12)
        preserved["rows"].append(torch.allclose(new @ new.T, old @ old.T, rtol=0, atol=1e-12))
        preserved["columns"].append(torch.allclose(new.T @ new, old.T @ old, rtol=0, atol=1e-12))
    assert set(preserved["rows"]) == {side == "input"}
    assert set(preserved["columns"]) == {side == "output"}
