"""Names of butterfly adapters, PEFT's status of a model, and PEFT without this package."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_layer_status, get_model_status, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file

import slm_testing.forked as forked
from slm_adapters import AdapterError, ButterflyConfig
from slm_testing.adapters.tiny_adapters import MakeModel, assert_differ, logits, random_butterfly, randomize_angles

NAMES = ["b", "fly", "butterfly", "butterfly_", "input", "a b-c/ü"]
REFUSED = [
    "",
    "a.b",
    "keys",
    "training",
    "__base__",
    "butterfly_output",
    "q_proj",
    "1",
    "weight",
    "model",
    "base_layer",
]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_may_be_called_like_a_part_of_a_parameter(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path, name: str
) -> None:
    config = ButterflyConfig(task_type="CAUSAL_LM", side="both", scale=True)
    adapted = get_peft_model(tiny("llama"), config, name).eval()
    randomize_angles(adapted, name)
    adapted.add_adapter("fl", ButterflyConfig(task_type="CAUSAL_LM", side="output"))
    randomize_angles(adapted, "fl", seed=1)
    expected = logits(adapted, input_ids)
    assert_differ(expected, logits(tiny("llama"), input_ids))
    adapted.save_pretrained(tmp_path, selected_adapters=[name])
    folder = tmp_path / name
    assert {key.rpartition(".")[2] for key in load_file(folder / "adapter_model.safetensors")} == {
        "butterfly_input",
        "butterfly_output",
        "butterfly_magnitude",
    }
    loaded = PeftModel.from_pretrained(tiny("llama"), folder, name)
    loaded.load_adapter(str(folder), "again")
    assert torch.equal(logits(loaded, input_ids), expected)
    loaded.set_adapter("again")
    loaded.delete_adapter(name)
    assert torch.equal(logits(loaded, input_ids), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_cannot_be_used_are_refused_everywhere(
    tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path, name: str
) -> None:
    adapted, plain = random_butterfly(tiny("llama")), tiny("llama")
    adapted.save_pretrained(tmp_path)
    config = ButterflyConfig(task_type="CAUSAL_LM")
    expected, base = logits(adapted, input_ids), logits(plain, input_ids)
    for add in (
        lambda: adapted.add_adapter(name, config),
        lambda: adapted.load_adapter(str(tmp_path), name),
        lambda: adapted.base_model.add_weighted_adapter(["default"], [1], name),
        lambda: get_peft_model(plain, config, name),
        lambda: inject_adapter_in_model(config, plain, name),
        lambda: PeftModel.from_pretrained(plain, tmp_path, name),
    ):
        with pytest.raises(AdapterError, match=rf"{name!r} cannot be the name of an adapter"):
            add()
    assert list(adapted.peft_config) == ["default"]
    assert torch.equal(logits(adapted, input_ids), expected)
    assert torch.equal(logits(plain, input_ids), base)


def test_peft_shows_the_method_and_the_state_of_adapters(tiny: MakeModel) -> None:
    adapted = random_butterfly(tiny("llama"), side="both", scale=True)
    adapted.add_adapter("other", ButterflyConfig(task_type="CAUSAL_LM"))
    status = get_model_status(adapted)
    assert status.peft_types == {"default": "BUTTERFLY", "other": "BUTTERFLY"}
    assert (status.adapter_model_type, status.num_adapter_layers) == ("ButterflyModel", 14)
    assert (status.active_adapters, status.available_adapters) == (["default"], ["default", "other"])
    assert status.requires_grad == {"default": True, "other": False}
    layer = get_layer_status(adapted)[0]
    assert (layer.module_type, layer.enabled, layer.merged_adapters) == ("butterfly.ButterflyLayer", True, [])
    adapted.merge_adapter(["default"])
    assert get_layer_status(adapted)[0].merged_adapters == ["default"]


def test_the_type_is_saved_and_printed_as_pefts_own_are(tiny: MakeModel, tmp_path: Path) -> None:
    adapted = random_butterfly(tiny("llama"))
    adapted.save_pretrained(tmp_path)
    assert '"peft_type": "BUTTERFLY"' in (tmp_path / "adapter_config.json").read_text()
    assert adapted.peft_config["default"].peft_type == "BUTTERFLY"
    assert {"BUTTERFLY": 1}[adapted.peft_config["default"].peft_type] == 1


PROGRAM = """
import sys
import peft
import transformers

folder = sys.argv[1]
model = transformers.GPT2Model(transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9))
for load in (peft.PeftConfig.from_pretrained, model.load_adapter):
    try:
        load(folder)
    except KeyError as error:
        print(repr(error))
import slm_adapters
print(peft.PeftConfig.from_pretrained(folder).side)
"""


def test_peft_alone_does_not_know_the_type_and_the_import_is_the_remedy(tiny: MakeModel, tmp_path: Path) -> None:
    random_butterfly(tiny("llama"), side="output").save_pretrained(tmp_path)
    result = forked.run_program(PROGRAM, [tmp_path], tmp_path, imported="transformers")
    assert result.stdout.splitlines() == ["KeyError('BUTTERFLY')", "KeyError('BUTTERFLY')", "output"], result.stderr
