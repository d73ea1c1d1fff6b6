"""Butterfly adapters through PEFT's own doors, on models of four architectures."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters import (
    AdapterError,
    ButterflyConfig,
    ButterflyLayer,
    LoraSettings,
    Rotation,
    add_lora,
    four_bit_config,
    rotation_matrix,
)
from slm_adapters.layer_laws import merged_equals_unmerged, saved_is_loaded, unmerge_restores

Tiny = Callable[[str], PreTrainedModel]

SETTINGS: dict[str, dict[str, Any]] = {
    "input": {"side": "input"},
    "output-scale": {"side": "output", "scale": True},
    "both-blocks": {"side": "both", "block_size": 16},
    "auto-blocks-stages-scale": {"side": "auto", "block_size": 16, "stages": 3, "scale": True},
    "both-two-sweeps": {"side": "both", "block_size": 8, "stages": 6, "strength": 0.5},
}
QUERY = {"gpt2": "attn.c_attn", "llama": "q_proj", "neox": "query_key_value", "qwen2": "q_proj"}

every_model = pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "qwen2"])
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def butterfly(model: PreTrainedModel, **settings: Any) -> PeftModel:
    return get_peft_model(model, ButterflyConfig(task_type="CAUSAL_LM", **settings)).eval()


def stir(model: nn.Module, adapter: str = "default", seed: int = 0) -> None:
    """Give an adapter something to do: angles start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "butterfly_" in name and name.endswith(f".{adapter}"):
                values.normal_(std=0.3, generator=generator)


def stirred(model: PreTrainedModel, seed: int = 0, **settings: Any) -> PeftModel:
    adapted = butterfly(model, **settings)
    stir(adapted, seed=seed)
    return adapted


def logits(model: nn.Module, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=input_ids, use_cache=False, **options).logits
    return found


def layers(model: nn.Module) -> dict[str, ButterflyLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ButterflyLayer)}


def weight(layer: nn.Module) -> torch.Tensor:
    """``[out, in]``"""
    held: torch.Tensor = layer.weight.detach().clone()
    return held.T if isinstance(layer, Conv1D) else held


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def assert_same_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def assert_differ(one: torch.Tensor, other: torch.Tensor) -> None:
    assert not torch.allclose(one, other, rtol=0, atol=1e-3)


def assert_close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@every_model
@every_setting
def test_what_is_saved_is_loaded_bit_for_bit(
    tiny: Tiny, name: str, settings: dict[str, Any], input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = stirred(tiny(name), **settings)
    wanted = logits(adapted, input_ids)
    assert_differ(wanted, logits(tiny(name), input_ids))
    saved_is_loaded(adapted, input_ids, tmp_path)
    loaded = PeftModel.from_pretrained(tiny(name), tmp_path)
    assert torch.equal(logits(loaded, input_ids), wanted)
    assert_same_bits(get_peft_model_state_dict(loaded), get_peft_model_state_dict(adapted))
    assert not any(values.requires_grad for values in loaded.parameters())


@every_model
@every_setting
def test_merged_computes_the_same_and_unmerging_restores_every_bit(
    tiny: Tiny, name: str, settings: dict[str, Any], input_ids: torch.Tensor
) -> None:
    adapted = stirred(tiny(name), **settings)
    before, unmerged = bits(adapted), logits(adapted, input_ids)
    adapted.merge_adapter()
    changed = [at for at, values in adapted.state_dict().items() if not torch.equal(values, before[at])]
    assert {at.rpartition(".base_layer.")[0] for at in changed} == {
        at for at, _ in adapted.named_modules() if at in layers(adapted)
    }
    assert_close(logits(adapted, input_ids), unmerged)
    adapted.unmerge_adapter()
    assert_same_bits(bits(adapted), before)
    assert torch.equal(logits(adapted, input_ids), unmerged)


@every_setting
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(16, 48), (48, 16)], ids=str)
def test_the_laws_of_a_layer_hold(settings: dict[str, Any], bias: bool, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = ButterflyLayer(nn.Linear(*shape, bias=bias), "default", ButterflyConfig(**settings), "layer").eval()
    stir(layer)
    merged_equals_unmerged(layer, torch.randn(2, 3, shape[0]))
    unmerge_restores(layer)


def test_the_laws_of_a_layer_fail_where_they_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = ButterflyLayer(nn.Linear(16, 48), "default", ButterflyConfig(), "layer").eval()
    stir(layer)
    monkeypatch.setattr(ButterflyLayer, "unmerge", lambda self: self.merged_adapters.clear())
    with pytest.raises(AssertionError, match=r"layer: unmerging leaves weight changed"):
        unmerge_restores(layer)
    with pytest.raises(AssertionError, match=r"layer: merged and unmerged differ by"):
        merged_equals_unmerged(layer, torch.full((1, 16), torch.nan))


def test_the_law_of_saving_leaves_the_model_and_fails_where_something_is_lost(
    tiny: Tiny, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = stirred(tiny("llama"))
    before = bits(adapted)
    saved_is_loaded(adapted, input_ids, tmp_path)
    assert_same_bits(bits(adapted), before)
    assert (adapted.active_adapter, list(adapted.peft_config)) == ("default", ["default"])
    for layer in layers(adapted).values():
        layer.set_scale("default", 0.5)  # which the configuration does not know
    with pytest.raises(AssertionError, match=r"'default' computes other logits after it was saved and loaded"):
        saved_is_loaded(adapted, input_ids, tmp_path)


def test_the_merged_weight_is_the_product_of_the_matrices() -> None:
    torch.manual_seed(0)
    base = nn.Linear(12, 20).double()
    held, bias = weight(base), base.bias.detach().clone()
    layer = ButterflyLayer(base, "default", ButterflyConfig(side="both", scale=True, strength=0.5), "layer")
    stir(layer)
    first = rotation_matrix(0.5 * layer.butterfly_input["default"], Rotation.of(12))
    last = rotation_matrix(0.5 * layer.butterfly_output["default"], Rotation.of(20))
    magnitude = torch.diag(1 + 0.5 * layer.butterfly_magnitude["default"].detach())
    layer.merge()
    torch.testing.assert_close(base.weight.detach(), magnitude @ last @ held @ first, rtol=0, atol=1e-14)
    torch.testing.assert_close(base.bias.detach(), magnitude @ last @ bias, rtol=0, atol=1e-14)


@every_model
def test_a_disabled_adapter_leaves_the_base_bit_for_bit(tiny: Tiny, name: str, input_ids: torch.Tensor) -> None:
    before = logits(tiny(name), input_ids)
    adapted = stirred(tiny(name), side="both", scale=True)
    wanted = logits(adapted, input_ids)
    for _ in ("unmerged", "merged"):
        with adapted.disable_adapter():
            assert torch.equal(logits(adapted, input_ids), before)
        assert torch.equal(logits(adapted, input_ids), wanted)
        adapted.merge_adapter()


@every_model
def test_merging_for_good_leaves_a_plain_model(tiny: Tiny, name: str, input_ids: torch.Tensor) -> None:
    adapted = stirred(tiny(name), side="both", block_size=16, scale=True)
    unmerged = logits(adapted, input_ids)
    plain = adapted.merge_and_unload(safe_merge=True)
    assert type(plain) is type(tiny(name))
    assert plain.state_dict().keys() == tiny(name).state_dict().keys()
    assert_close(logits(plain, input_ids), unmerged)


@every_model
def test_unloading_gives_the_base_back_bit_for_bit(tiny: Tiny, name: str) -> None:
    plain = stirred(tiny(name), side="both").unload()
    assert_same_bits(bits(plain), bits(tiny(name)))


def test_merging_safely_refuses_an_adapter_that_is_broken_and_leaves_the_base(tiny: Tiny) -> None:
    adapted = stirred(tiny("llama"), side="input")
    layer = next(iter(layers(adapted).values()))
    with torch.no_grad():
        layer.butterfly_input["default"][0, 3] = torch.nan
    with pytest.raises(AdapterError, match=r"layers.0.self_attn.q_proj: adapter 'default' makes weights.*broken"):
        adapted.merge_adapter(safe_merge=True)
    adapted.unmerge_adapter()
    assert_same_bits(bits(adapted.unload()), bits(tiny("llama")))


def test_merging_twice_is_merging_once(tiny: Tiny) -> None:
    adapted = stirred(tiny("llama"))
    adapted.merge_adapter()
    once = bits(adapted)
    adapted.merge_adapter()
    assert_same_bits(bits(adapted), once)


@every_model
def test_each_of_two_adapters_acts_as_if_alone(tiny: Tiny, name: str, input_ids: torch.Tensor) -> None:
    one, other = SETTINGS["both-blocks"], SETTINGS["output-scale"]
    adapted = stirred(tiny(name), **one)
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM", **other))
    stir(adapted, "other", seed=1)
    wanted = {"default": logits(stirred(tiny(name), **one), input_ids)}
    wanted["other"] = logits(stirred(tiny(name), seed=1, **other), input_ids)
    assert_differ(wanted["default"], wanted["other"])
    for chosen in ("default", "other", "default"):
        adapted.set_adapter(chosen)
        assert torch.equal(logits(adapted, input_ids), wanted[chosen])
        trained = {at.rpartition(".")[2] for at, values in adapted.named_parameters() if values.requires_grad}
        assert trained == {chosen}


def test_a_deleted_adapter_is_gone_and_its_name_starts_anew(tiny: Tiny, input_ids: torch.Tensor) -> None:
    before = logits(tiny("llama"), input_ids)
    adapted = stirred(tiny("llama"), side="both", scale=True)
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM"))
    stir(adapted, "other", seed=1)
    adapted.set_adapter("other")
    wanted = logits(adapted, input_ids)
    adapted.delete_adapter("default")
    assert torch.equal(logits(adapted, input_ids), wanted)
    assert not any(at.endswith(".default") for at in adapted.state_dict())
    adapted.add_adapter("default", ButterflyConfig(task_type="CAUSAL_LM", side="input"))
    adapted.set_adapter("default")
    assert torch.equal(logits(adapted, input_ids), before)


@pytest.mark.parametrize("round", range(3))
def test_a_name_used_again_does_not_bring_old_angles_back(tiny: Tiny, input_ids: torch.Tensor, round: int) -> None:
    adapted = butterfly(tiny("llama"))
    adapted.add_adapter("again", ButterflyConfig(task_type="CAUSAL_LM", init_weights=False))
    adapted.set_adapter("again")
    logits(adapted, input_ids)  # caches rotations
    adapted.delete_adapter("again")
    torch.manual_seed(round)
    adapted.add_adapter("again", ButterflyConfig(task_type="CAUSAL_LM", init_weights=False))
    adapted.set_adapter("again")
    found = logits(adapted, input_ids)
    adapted.train().eval()  # drops whatever is cached
    assert torch.equal(found, logits(adapted, input_ids))


@every_model
def test_a_bfloat16_base_has_angles_in_float32(tiny: Tiny, name: str, input_ids: torch.Tensor, tmp_path: Path) -> None:
    wanted = logits(stirred(tiny(name), side="both", scale=True), input_ids)
    adapted = stirred(tiny(name).to(torch.bfloat16), side="both", scale=True)
    assert {values.requires_grad: values.dtype for values in adapted.parameters()} == {
        True: torch.float32,
        False: torch.bfloat16,
    }
    found = logits(adapted, input_ids)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).norm() / wanted.norm() < 0.05
    adapted.save_pretrained(tmp_path)
    assert {values.dtype for values in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    before = bits(adapted)
    adapted.merge_adapter()
    assert {values.dtype for values in adapted.parameters()} == {torch.float32, torch.bfloat16}
    assert (logits(adapted, input_ids).float() - wanted).norm() / wanted.norm() < 0.05
    adapted.unmerge_adapter()
    assert_same_bits(bits(adapted), before)


def eight_bit_config() -> BitsAndBytesConfig:
    return BitsAndBytesConfig(load_in_8bit=True)


@pytest.mark.parametrize("kind", ["4-bit", "8-bit"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_base_in_few_bits_is_adapted_merged_and_restored(
    tiny: Tiny, name: str, kind: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny(name).save_pretrained(tmp_path)
    config = four_bit_config(torch.float32) if kind == "4-bit" else eight_bit_config()
    base = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).eval()
    before = logits(base, input_ids)
    adapted = butterfly(base, side="both", scale=True)
    assert torch.equal(logits(adapted, input_ids), before)
    stir(adapted)
    unmerged, held = logits(adapted, input_ids), bits(adapted)
    assert_differ(unmerged, before)
    adapted.merge_adapter()
    merged = logits(adapted, input_ids)
    assert torch.corrcoef(torch.stack([merged.flatten(), unmerged.flatten()]))[0, 1] > 0.95
    adapted.unmerge_adapter()
    assert_same_bits(bits(adapted), held)
    assert torch.equal(logits(adapted, input_ids), unmerged)
    for layer in layers(adapted).values():
        unmerge_restores(layer)


@pytest.mark.parametrize("kind", ["4-bit", "8-bit"])
def test_a_base_in_few_bits_gives_the_gradients_of_its_dequantised_self(
    tiny: Tiny, kind: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    tiny("llama").save_pretrained(tmp_path)
    config = four_bit_config(torch.float32) if kind == "4-bit" else eight_bit_config()
    small = stirred(AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config), side="both")
    whole = stirred(
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config).dequantize(), side="both"
    )
    found, wanted = [], []
    for model, gradients in ((small, found), (whole, wanted)):
        model.train()(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        gradients += [values.grad.flatten() for values in model.parameters() if values.grad is not None]
    assert len(found) == len(wanted) == 2 * 7 * 2  # blocks, layers of a block, sides
    assert torch.corrcoef(torch.stack([torch.cat(found), torch.cat(wanted)]))[0, 1] > 0.99


def test_a_weighted_sum_of_adapters_has_the_weighted_angles(tiny: Tiny, input_ids: torch.Tensor) -> None:
    adapted = stirred(tiny("llama"), side="both", scale=True)
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM", side="both", scale=True, strength=0.5))
    stir(adapted, "other", seed=1)
    adapted.base_model.add_weighted_adapter(["default", "other"], [0.25, 2], "sum")
    for layer in layers(adapted).values():
        for part in (layer.butterfly_input, layer.butterfly_output, layer.butterfly_magnitude):
            torch.testing.assert_close(part["sum"], 0.25 * part["default"] + 2 * 0.5 * part["other"])
    adapted.base_model.add_weighted_adapter(["default", "other"], [1, 0], "first")
    wanted = logits(adapted, input_ids)
    adapted.set_adapter("first")
    assert torch.equal(logits(adapted, input_ids), wanted)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((["default", "like"], [1, 1], "sum", "svd"), "not by svd"),
        ((["default", "like"], [1, 1], "sum", "ties"), "not by ties"),
        ((["default", "like"], [1], "sum"), "2 adapters and 1 weights do not make a sum"),
        (([], [], "sum"), "0 adapters and 0 weights"),
        ((["default", "missing"], [1, 1], "sum"), "no adapter 'missing'; there are default, like, unlike, elsewhere"),
        ((["default", "unlike"], [1, 1], "sum"), "'default' and 'unlike' differ in side"),
        ((["default", "elsewhere"], [1, 1], "sum"), "not all of default, elsewhere lie on .*q_proj"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sums_without_sense_are_refused(tiny: Tiny, arguments: tuple[Any, ...], told: str) -> None:
    adapted = butterfly(tiny("llama"), side="input")
    for name, settings in {
        "like": {"side": "input"},
        "unlike": {"side": "output"},
        "elsewhere": {"side": "input", "target_modules": ["v_proj"]},
    }.items():
        adapted.add_adapter(name, ButterflyConfig(task_type="CAUSAL_LM", **settings))
    with pytest.raises(AdapterError, match=told):
        adapted.base_model.add_weighted_adapter(*arguments)
    assert set(adapted.peft_config) == {"default", "like", "unlike", "elsewhere"}


# Angles of a full rotation, counted by hand: width / 2 for each factor of two; 3 for each triple.
ANGLES = {32: 5 * 16, 64: 6 * 32, 128: 7 * 64, 192: 6 * 96 + 3 * 64, 256: 8 * 128}
WIDTHS = {  # features in and out of a block's layers
    "gpt2": [(64, 192), (64, 64), (64, 256), (256, 64)],
    "llama": [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)],
    "neox": [(64, 192), (64, 64), (64, 128), (128, 64)],
    "qwen2": [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)],
}


@every_model
@pytest.mark.parametrize("side", ["input", "output", "both", "auto"])
@pytest.mark.parametrize("scale", [False, True])
def test_what_trains_is_the_angles_and_their_number_is_known(
    tiny: Tiny, name: str, side: str, scale: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {
        "input": lambda i, o: ANGLES[i],
        "output": lambda i, o: ANGLES[o],
        "both": lambda i, o: ANGLES[i] + ANGLES[o],
    }
    counts["auto"] = lambda i, o: ANGLES[min(i, o)]
    wanted = 2 * sum(counts[side](i, o) + (o if scale else 0) for i, o in WIDTHS[name])
    adapted = butterfly(tiny(name), side=side, scale=scale)
    assert adapted.get_nb_trainable_parameters()[0] == wanted
    adapted.print_trainable_parameters()
    assert capsys.readouterr().out.startswith(f"trainable params: {wanted:,} ||")


def test_blocks_count_their_angles(tiny: Tiny) -> None:
    adapted = butterfly(tiny("llama"), side="input", block_size=16, stages=2)
    assert adapted.get_nb_trainable_parameters()[0] == 2 * sum(2 * i // 2 for i, _ in WIDTHS["llama"])


@every_model
def test_angles_set_from_a_state_take_effect_at_once(tiny: Tiny, name: str, input_ids: torch.Tensor) -> None:
    settings = SETTINGS["both-blocks"]
    source, adapted = stirred(tiny(name), seed=5, **settings), stirred(tiny(name), **settings)
    wanted = logits(source, input_ids)
    assert_differ(logits(adapted, input_ids), wanted)
    set_peft_model_state_dict(adapted, get_peft_model_state_dict(source))
    assert torch.equal(logits(adapted, input_ids), wanted)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_file_loaded_into_the_same_name_takes_effect_at_once(
    tiny: Tiny, input_ids: torch.Tensor, tmp_path: Path, low_cpu_mem_usage: bool
) -> None:
    source, adapted = stirred(tiny("gpt2"), seed=5), stirred(tiny("gpt2"))
    source.save_pretrained(tmp_path)
    assert_differ(logits(adapted, input_ids), logits(source, input_ids))
    adapted.load_adapter(str(tmp_path), "default", low_cpu_mem_usage=low_cpu_mem_usage)
    assert torch.equal(logits(adapted, input_ids), logits(source, input_ids))


def test_a_model_is_loaded_without_memory_for_angles_that_the_file_brings(
    tiny: Tiny, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    source = stirred(tiny("llama"), **SETTINGS["auto-blocks-stages-scale"])
    source.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny("llama"), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(logits(loaded, input_ids), logits(source, input_ids))


@every_model
def test_an_adapter_is_injected_into_a_model_as_it_is(tiny: Tiny, name: str, input_ids: torch.Tensor) -> None:
    wanted = logits(stirred(tiny(name), side="both"), input_ids)
    injected = inject_adapter_in_model(ButterflyConfig(side="both"), tiny(name))
    assert type(injected) is type(tiny(name))
    stir(injected)
    assert torch.equal(logits(injected, input_ids), wanted)


NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize(
    ("chosen", "wanted"),
    [
        ({}, {(block, name) for block in "01" for name in NAMES}),
        ({"target_modules": "all-linear"}, {(block, name) for block in "01" for name in NAMES}),
        ({"target_modules": ["q_proj", "mlp.down_proj"]}, {(b, n) for b in "01" for n in ("q_proj", "down_proj")}),
        ({"layers_to_transform": [1]}, {("1", name) for name in NAMES}),
        ({"target_modules": ["v_proj"], "layers_to_transform": 0}, {("0", "v_proj")}),
        (
            {"exclude_modules": ["v_proj", "up_proj"]},
            {(b, n) for b in "01" for n in NAMES if n not in ("v_proj", "up_proj")},
        ),
        ({"target_modules": r".*\.1\..*(q|k)_proj"}, {("1", "q_proj"), ("1", "k_proj")}),
    ],
    ids=str,
)
def test_layers_are_chosen_as_in_every_method(tiny: Tiny, chosen: dict[str, Any], wanted: set[tuple[str, str]]) -> None:
    adapted = butterfly(tiny("llama"), **chosen)
    found = {(at.split(".layers.")[1][0], at.rpartition(".")[2]) for at in layers(adapted)}
    assert found == wanted


def test_the_head_is_adapted_where_it_is_named(tiny: Tiny, input_ids: torch.Tensor) -> None:
    adapted = stirred(tiny("llama"), target_modules=["lm_head"], side="input")
    assert [at.rpartition(".")[2] for at in layers(adapted)] == ["lm_head"]
    unmerged = logits(adapted, input_ids)
    assert_close(logits(adapted.merge_and_unload(), input_ids), unmerged)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"target_modules": ["q_proj", "c_attn"]}, r"target module 'c_attn' matches no layer"),
        ({"target_modules": ["embed_tokens"]}, r"embed_tokens is a Embedding; butterfly adapters go on linear layers"),
        ({"block_size": 24}, r"q_proj: butterfly block size 24 does not divide the width 64; use one of 2, 4, .*64"),
        ({"side": "both", "block_size": 64}, r"k_proj: butterfly block size 64 does not divide the width 32"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_model_is_refused_by_name(tiny: Tiny, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        butterfly(tiny("llama"), **settings)


@pytest.mark.parametrize(
    ("wrong", "told"),
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
        ({"layers_pattern": "h"}, "layers_pattern says where layers_to_transform counts"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_where_they_are_made(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        ButterflyConfig(**wrong)


def test_another_method_on_the_same_layer_is_refused(tiny: Tiny) -> None:
    mixed = add_lora(tiny("llama"), LoraSettings(target_modules=["q_proj"]))
    with pytest.raises(AdapterError, match=r"q_proj already has an adapter of another method; merge or unload"):
        inject_adapter_in_model(ButterflyConfig(target_modules=["q_proj"]), mixed.base_model.model)


@pytest.mark.parametrize(("name", "head"), [("llama", "lm_head"), ("gpt2", "ln_f")])
def test_modules_to_save_train_and_are_saved_with_the_adapter(
    tiny: Tiny, name: str, head: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = stirred(tiny(name), modules_to_save=[head])
    trained = [at for at, values in adapted.named_parameters() if values.requires_grad and "butterfly_" not in at]
    assert {at.split(".modules_to_save.")[0].rpartition(".")[2] for at in trained} == {head}
    with torch.no_grad():
        adapted.get_parameter(trained[0]).mul_(2)
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny(name), tmp_path).eval()
    assert torch.equal(logits(loaded, input_ids), logits(adapted, input_ids))
    assert_close(logits(adapted.merge_and_unload(), input_ids), logits(loaded, input_ids))


def with_three_adapters(model: PreTrainedModel) -> PeftModel:
    adapted = stirred(model, side="both", scale=True)
    for seed, (name, settings) in enumerate(
        {"one": {"side": "input", "block_size": 8}, "two": {"side": "output"}}.items()
    ):
        adapted.add_adapter(name, ButterflyConfig(task_type="CAUSAL_LM", **settings))
        stir(adapted, name, seed + 1)
    return adapted.eval()


@every_model
def test_rows_of_a_batch_have_each_its_own_adapter(tiny: Tiny, name: str) -> None:
    adapted = with_three_adapters(tiny(name))
    names = ["two", "__base__", "default", "one", "two", "default"]
    input_ids = torch.randint(0, 48, (6, 7), generator=torch.Generator().manual_seed(1))
    together = logits(adapted, input_ids, adapter_names=names)
    for row, chosen in enumerate(names):
        adapted.set_adapter("default" if chosen == "__base__" else chosen)
        alone = (
            logits(tiny(name), input_ids[row : row + 1])
            if chosen == "__base__"
            else logits(adapted, input_ids[row : row + 1])
        )
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(adapted, input_ids, adapter_names=["__base__"] * 6), logits(tiny(name), input_ids))


@pytest.mark.parametrize("num_beams", [1, 2])
def test_rows_generate_each_with_its_own_adapter(tiny: Tiny, num_beams: int) -> None:
    adapted = with_three_adapters(tiny("llama"))
    prompt = torch.randint(2, 48, (1, 4), generator=torch.Generator().manual_seed(2))
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "num_beams": num_beams, "pad_token_id": 1}
    names = ["one", "__base__", "two", "default"]
    together = adapted.generate(input_ids=prompt.expand(4, -1), adapter_names=names, **options)
    assert len({tuple(row) for row in together.tolist()}) > 1
    for row, chosen in zip(together, names, strict=True):
        model: Any = tiny("llama") if chosen == "__base__" else adapted
        if chosen != "__base__":
            adapted.set_adapter(chosen)
        assert torch.equal(model.generate(input_ids=prompt, **options)[0], row)


def test_adapter_names_without_sense_are_refused_and_leave_no_hook(tiny: Tiny, input_ids: torch.Tensor) -> None:
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


@every_model
def test_of_several_active_adapters_the_last_lies_on_a_model_that_has_the_others(
    tiny: Tiny, name: str, input_ids: torch.Tensor
) -> None:
    a, b = SETTINGS["output-scale"], {"side": "both", "scale": True, "block_size": 16}
    first = stirred(tiny(name).double(), **a).merge_and_unload()
    wanted = logits(stirred(first, seed=1, **b), input_ids)
    adapted = stirred(tiny(name).double(), **a)
    adapted.add_adapter("last", ButterflyConfig(task_type="CAUSAL_LM", **b))
    stir(adapted, "last", seed=1)
    adapted.base_model.set_adapter(["default", "last"])
    torch.testing.assert_close(logits(adapted, input_ids), wanted, rtol=0, atol=1e-10)
    adapted.merge_adapter(["default", "last"])
    torch.testing.assert_close(logits(adapted, input_ids), wanted, rtol=0, atol=1e-10)
    adapted.unmerge_adapter()
    adapted.base_model.set_adapter(["last", "default"])
    assert_differ(logits(adapted, input_ids), wanted)


@every_model
def test_strength_scales_the_angles_and_zero_is_the_base(
    tiny: Tiny, name: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    adapted = stirred(tiny(name), side="both", scale=True)
    whole = logits(adapted, input_ids)
    adapted.base_model.set_strength(0)
    assert torch.equal(logits(adapted, input_ids), logits(tiny(name), input_ids))
    adapted.merge_adapter()
    assert torch.equal(logits(adapted, input_ids), logits(tiny(name), input_ids))
    adapted.unmerge_adapter()
    adapted.base_model.set_strength(0.7)
    scaled = stirred(tiny(name), side="both", scale=True)
    with torch.no_grad():
        for at, values in scaled.named_parameters():
            if "butterfly_" in at:
                values.mul_(0.7)
    wanted = logits(scaled, input_ids)
    assert torch.equal(logits(adapted, input_ids), wanted)
    adapted.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny(name), tmp_path), input_ids), wanted)
    adapted.base_model.set_strength(1)
    assert torch.equal(logits(adapted, input_ids), whole)


def test_strength_is_that_of_the_adapter_named(tiny: Tiny) -> None:
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
def test_a_strength_that_is_no_number_is_refused_later_too(tiny: Tiny, strength: float) -> None:
    adapted = butterfly(tiny("llama"))
    with pytest.raises(AdapterError, match=r"strength .* must be a finite number"):
        adapted.base_model.set_strength(strength)


def test_angles_that_drop_out_leave_a_rotation() -> None:
    torch.manual_seed(0)
    config = ButterflyConfig(side="output", angle_dropout=0.5)
    layer = ButterflyLayer(nn.Linear(16, 32), "default", config, "layer")
    stir(layer)
    x = torch.randn(4, 16)
    length = layer.base_layer(x).norm(dim=-1)
    layer.train()
    one, other = layer(x), layer(x)
    assert_differ(one, other)
    for y in (one, other):
        torch.testing.assert_close(y.norm(dim=-1), length)
    layer.eval()
    plain = ButterflyLayer(layer.base_layer, "default", ButterflyConfig(side="output"), "layer").eval()
    stir(plain)
    assert torch.equal(layer(x), layer(x))
    torch.testing.assert_close(layer(x), plain(x))


@every_model
@pytest.mark.parametrize("side", ["input", "output", "both"])
def test_each_side_keeps_what_it_says(tiny: Tiny, name: str, side: str) -> None:
    adapted = stirred(tiny(name).double(), side=side)
    before = {at: weight(layer.get_base_layer()) for at, layer in layers(adapted).items()}
    adapted.merge_adapter()
    kept: dict[str, list[bool]] = {"rows": [], "columns": []}
    for at, layer in layers(adapted).items():
        old, new = before[at], weight(layer.get_base_layer())
        assert_differ(old, new)
        singular = torch.linalg.svdvals(old)
        torch.testing.assert_close(torch.linalg.svdvals(new), singular, rtol=0, atol=1e-12)
        kept["rows"].append(torch.allclose(new @ new.T, old @ old.T, rtol=0, atol=1e-12))
        kept["columns"].append(torch.allclose(new.T @ new, old.T @ old, rtol=0, atol=1e-12))
    assert set(kept["rows"]) == {side == "input"}
    assert set(kept["columns"]) == {side == "output"}


Edit = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


REFUSED: dict[str, tuple[Edit, str]] = {
    "other-stages": (
        lambda config, _: config.update(stages=2),
        r"q_proj.butterfly_input: the checkpoint has the shape \[4, 24\], the model \[4, 16\]; it was made for",
    ),
    "other-block": (
        lambda config, _: config.update(block_size=32),
        r"the checkpoint has the shape \[4, 24\], the model \[2, 48\]; it was made for another width, block size",
    ),
    "wrong-side": (
        lambda config, _: config.update(side="output"),
        r"the checkpoint has nothing for .*q_proj.butterfly_output; it was made for other layers or another",
    ),
    "layer-missing": (
        lambda _, tensors: tensors.pop(first(tensors)),
        r"the checkpoint has nothing for .*layers.0.mlp.down_proj.butterfly_input",
    ),
    "layer-too-many": (
        lambda config, _: config.update(target_modules=["q_proj"]),
        r"the checkpoint has .*layers.0.mlp.down_proj.butterfly_input, which the model has not",
    ),
    "scale-missing": (
        lambda config, _: config.update(scale=True),
        r"the checkpoint has nothing for .*q_proj.butterfly_magnitude",
    ),
    "nan": (
        lambda _, tensors: tensors[first(tensors)].view(-1)[5:6].fill_(torch.nan),
        r"layers.0.mlp.down_proj.butterfly_input: the checkpoint has angles that are no numbers; it is broken",
    ),
    "infinity": (
        lambda _, tensors: tensors[first(tensors)].view(-1)[5:6].fill_(torch.inf),
        r"layers.0.mlp.down_proj.butterfly_input: the checkpoint has angles that are no numbers; it is broken",
    ),
    "later-format": (
        lambda config, _: config.update(format_version=2, foresight=True),
        r"format version 2, and this slm-adapters reads version 1; update slm-adapters",
    ),
}


@pytest.mark.parametrize(("edit", "told"), REFUSED.values(), ids=REFUSED)
def test_checkpoints_that_do_not_fit_are_refused(tiny: Tiny, tmp_path: Path, edit: Edit, told: str) -> None:
    stirred(tiny("llama"), side="input", block_size=16, stages=3).save_pretrained(tmp_path)
    config, tensors = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    settings, held = json.loads(config.read_text()), load_file(tensors)
    edit(settings, held)
    config.write_text(json.dumps(settings))
    save_file(held, tensors)
    with pytest.raises(AdapterError, match=told):
        PeftModel.from_pretrained(tiny("llama"), tmp_path)


def test_angles_of_another_model_are_refused_and_those_held_stay(tiny: Tiny, input_ids: torch.Tensor) -> None:
    adapted = stirred(tiny("llama"), side="input")
    before = logits(adapted, input_ids)
    with pytest.raises(AdapterError, match=r"the checkpoint has nothing for .*butterfly_input"):
        set_peft_model_state_dict(adapted, get_peft_model_state_dict(stirred(tiny("neox"), side="input")))
    assert torch.equal(logits(adapted, input_ids), before)


def test_the_saved_folder_says_what_it_is(tiny: Tiny, tmp_path: Path) -> None:
    stirred(tiny("llama"), side="both", block_size=16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["format_version"]) == ("BUTTERFLY", 1)
    assert (config["side"], config["block_size"], config["stages"]) == ("both", 16, None)
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == set(NAMES)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 2 * 7 * 2
    assert {name.rpartition(".")[2] for name in saved} == {"butterfly_input", "butterfly_output"}


def test_a_merged_model_that_is_moved_to_another_dtype_unmerges_in_it(tiny: Tiny, input_ids: torch.Tensor) -> None:
    adapted = stirred(tiny("llama"))
    adapted.merge_adapter()
    adapted.to(torch.float64)
    adapted.unmerge_adapter()
    assert {values.dtype for values in adapted.parameters()} == {torch.float64}
    wanted = logits(stirred(tiny("llama")).double(), input_ids)
    torch.testing.assert_close(logits(adapted, input_ids), wanted, rtol=0, atol=1e-5)
