"""Format of butterfly checkpoints, and the checkpoints that are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from slm_adapters import AdapterError
from slm_testing.adapters.tiny_adapters import LLAMA_LINEAR_LAYERS, MakeModel, logits, random_butterfly

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
        r"the checkpoint has no .*q_proj.butterfly_output; it was made for other layers or another",
    ),
    "layer-missing": (
        lambda _, tensors: tensors.pop(first(tensors)),
        r"the checkpoint has no .*layers.0.mlp.down_proj.butterfly_input",
    ),
    "layer-too-many": (
        lambda config, _: config.update(target_modules=["q_proj"]),
        r"the checkpoint has .*layers.0.mlp.down_proj.butterfly_input, which this model does not have",
    ),
    "scale-missing": (
        lambda config, _: config.update(scale=True),
        r"the checkpoint has no .*q_proj.butterfly_magnitude",
    ),
    "nan": (
        lambda _, tensors: tensors[first(tensors)].view(-1)[5:6].fill_(torch.nan),
        r"layers.0.mlp.down_proj.butterfly_input: the checkpoint has values that are not finite; train it again",
    ),
    "infinity": (
        lambda _, tensors: tensors[first(tensors)].view(-1)[5:6].fill_(torch.inf),
        r"layers.0.mlp.down_proj.butterfly_input: the checkpoint has values that are not finite; train it again",
    ),
    "later-format": (
        lambda config, _: config.update(format_version=2, foresight=True),
        r"format version 2, but this slm-adapters reads version 1; update slm-adapters",
    ),
}


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_checkpoints_that_do_not_fit_are_refused(tiny: MakeModel, tmp_path: Path, edit: Edit, message: str) -> None:
    random_butterfly(tiny("llama"), side="input", block_size=16, stages=3).save_pretrained(tmp_path)
    config_file, tensor_file = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    settings, tensors = json.loads(config_file.read_text()), load_file(tensor_file)
    edit(settings, tensors)
    config_file.write_text(json.dumps(settings))
    save_file(tensors, tensor_file)
    with pytest.raises(AdapterError, match=message):
        PeftModel.from_pretrained(tiny("llama"), tmp_path)


def test_angles_of_another_model_are_refused_and_the_model_keeps_its_own(
    tiny: MakeModel, input_ids: torch.Tensor
) -> None:
    adapted = random_butterfly(tiny("llama"), side="input")
    before = logits(adapted, input_ids)
    with pytest.raises(AdapterError, match=r"the checkpoint has no .*butterfly_input"):
        set_peft_model_state_dict(adapted, get_peft_model_state_dict(random_butterfly(tiny("neox"), side="input")))
    assert torch.equal(logits(adapted, input_ids), before)


def test_the_saved_folder_says_what_it_is(tiny: MakeModel, tmp_path: Path) -> None:
    random_butterfly(tiny("llama"), side="both", block_size=16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["format_version"]) == ("BUTTERFLY", 1)
    assert (config["side"], config["block_size"], config["stages"]) == ("both", 16, None)
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == set(LLAMA_LINEAR_LAYERS)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 2 * 7 * 2
    assert {name.rpartition(".")[2] for name in saved} == {"butterfly_input", "butterfly_output"}
