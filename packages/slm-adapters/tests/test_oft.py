"""PEFT's OFT as a peer of the butterfly: on GPT-2's Conv1D too, loaded, merged and inspected."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters import AdapterError, OftSettings, add_oft, load, load_adapters
from slm_adapters.base.layer_weights import features
from slm_adapters.cli import main
from slm_adapters.targets import linear_layers
from slm_testing.adapters.tiny_adapters import MakeBase, MakeModel, adapted, all_models, logits, save_run


def with_oft(model: PreTrainedModel, block_size: int | None = None) -> PeftModel:
    """Return ``model`` with an OFT adapter whose rotations are random, as after training."""
    generator = torch.Generator().manual_seed(0)
    rotated = add_oft(model, OftSettings(block_size)).eval()
    with torch.no_grad():
        for name, weight in rotated.named_parameters():
            if "oft_R" in name:
                weight.normal_(std=0.05, generator=generator)
    return rotated


@all_models
def test_an_untrained_adapter_computes_what_the_base_computes(
    tiny: MakeModel, name: str, input_ids: torch.Tensor
) -> None:
    torch.testing.assert_close(
        logits(add_oft(tiny(name), OftSettings()).eval(), input_ids),
        logits(tiny(name), input_ids),
        rtol=1e-5,
        atol=1e-6,
    )
    assert not torch.allclose(logits(with_oft(tiny(name)), input_ids), logits(tiny(name), input_ids), atol=1e-3)


@all_models
@pytest.mark.parametrize(("block_size", "used"), [(None, 32), (8, 8), (2, 2)])
def test_each_layer_trains_half_of_its_inputs_times_the_block_size_minus_one(
    tiny: MakeModel, name: str, block_size: int | None, used: int
) -> None:
    model = tiny(name)
    inputs = sum(shape[0] for layer in linear_layers(model).values() if (shape := features(layer)))
    rotated = add_oft(model, OftSettings(block_size=block_size))
    trained = {at: weight.numel() for at, weight in rotated.named_parameters() if weight.requires_grad}
    assert sum(trained.values()) == inputs * (used - 1) // 2
    assert all("oft_R" in at for at in trained)


def test_a_block_size_that_divides_no_width_is_refused_with_those_that_do(tiny: MakeModel) -> None:
    with pytest.raises(
        AdapterError, match=r"--oft_block_size 24 does not divide the input widths 64, 256; choose from"
    ):
        add_oft(tiny("gpt2"), OftSettings(block_size=24))
    with pytest.raises(AdapterError, match="--oft_block_size 1 must be at least 2"):
        OftSettings(block_size=1)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_saved_adapter_is_loaded_and_merged_into_a_plain_model(
    tiny: MakeModel, make_base: MakeBase, name: str, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    model = with_oft(tiny(name))
    run, expected = save_run(model, tmp_path / "run", str(make_base(name)), "oft"), logits(model, input_ids)
    assert torch.equal(logits(load(run, device="cpu").model, input_ids), expected)
    merged = load(run, device="cpu", merge=True).model
    kinds = [type(layer) for layer in linear_layers(tiny(name)).values()]
    assert [type(layer) for layer in linear_layers(merged).values()] == kinds
    merged.save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    for plain in (merged, reloaded):
        torch.testing.assert_close(logits(plain, input_ids), expected, rtol=1e-4, atol=1e-4)


def test_beside_another_adapter_the_base_is_in_memory_once_and_computes_the_same(
    tiny: MakeModel, make_base: MakeBase, input_ids: torch.Tensor, tmp_path: Path
) -> None:
    base = str(make_base("gpt2"))
    models = {"oft": with_oft(tiny("gpt2")), "lora": adapted(tiny("gpt2"), "lora")}
    runs = {name: save_run(model, tmp_path / name, base, name) for name, model in models.items()}
    loaded = load_adapters(base, runs, device="cpu")
    for model, expected in zip(loaded.models, models.values(), strict=True):
        assert torch.equal(logits(model, input_ids), logits(expected, input_ids))
    rotated: Any = loaded.models[0]
    lora = loaded.models[1]
    assert any(isinstance(layer, Conv1D) for layer in lora.modules())
    shared = {weight.data_ptr() for weight in rotated.parameters()} & {
        weight.data_ptr() for weight in lora.parameters()
    }
    assert len(shared) == len(list(tiny("gpt2").parameters()))
    with rotated.disable_adapter():
        torch.testing.assert_close(logits(rotated, input_ids), logits(tiny("gpt2"), input_ids), rtol=1e-5, atol=1e-6)


def test_inspect_names_the_method_and_the_block_size(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = save_run(with_oft(tiny("gpt2"), block_size=16), tmp_path / "run", str(make_base("gpt2")), "oft")
    assert main(["inspect", str(run), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert (described["method"], described["oft_block_size"], described["layers"]) == ("OFT", 16, 8)
    assert described["parameters"] == 2 * (3 * 64 + 256) * 15 // 2
