"""A butterfly adapter exported as PEFT's OFT computes the same function, or is refused with the reason."""

from math import pi
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from slm_adapters import AdapterError, ButterflyConfig, export_oft
from slm_testing.adapters.tiny_adapters import MakeModel, logits


def adapted(model: PreTrainedModel, std: float = 0.4, **options: Any) -> Any:
    peft_model = get_peft_model(model, ButterflyConfig(task_type="CAUSAL_LM", side="input", **options)).eval()
    torch.manual_seed(1)
    for weight in peft_model.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=std)
    return peft_model


@pytest.mark.parametrize("name", ["llama", "neox", "qwen2"])
@pytest.mark.parametrize("options", [{"block_size": 16}, {}, {"block_size": 8, "stages": 5, "strength": 0.5}], ids=str)
def test_plain_oft_computes_the_same(
    tiny: MakeModel, name: str, options: dict[str, Any], input_ids: torch.Tensor, tmp_path: Path
) -> None:
    ours = adapted(tiny(name), **options)
    export_oft(ours, tmp_path)
    theirs = PeftModel.from_pretrained(tiny(name), tmp_path).eval()
    assert type(theirs.base_model).__name__ == "OFTModel"
    torch.testing.assert_close(logits(theirs, input_ids), logits(ours, input_ids), rtol=0, atol=2e-5)
    assert not torch.allclose(logits(ours, input_ids), logits(tiny(name), input_ids), atol=1e-2)


def test_only_adapted_layers_are_exported(tiny: MakeModel, input_ids: torch.Tensor, tmp_path: Path) -> None:
    ours = adapted(tiny("llama"), block_size=16, target_modules=["q_proj"], layers_to_transform=[1])
    export_oft(ours, tmp_path)
    theirs = PeftModel.from_pretrained(tiny("llama"), tmp_path).eval()
    torch.testing.assert_close(logits(theirs, input_ids), logits(ours, input_ids), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("llama", {"side": "both"}, "q_proj cannot be exported as OFT: its output is rotated"),
        ("llama", {"scale": True}, "learned magnitudes"),
        ("gpt2", {}, "c_attn cannot be exported as OFT: .*Conv1D"),
    ],
    ids=str,
)
def test_what_oft_cannot_express_is_refused(
    tiny: MakeModel, name: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {"side": "input"} | options
    model = get_peft_model(tiny(name), ButterflyConfig(task_type="CAUSAL_LM", **config))
    with pytest.raises(AdapterError, match=message):
        export_oft(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_turns_and_unknown_adapters_are_refused(tiny: MakeModel, tmp_path: Path) -> None:
    model = get_peft_model(tiny("llama"), ButterflyConfig(block_size=2, stages=1, side="input"))
    with pytest.raises(AdapterError, match="no butterfly adapter 'other'"):
        export_oft(model, tmp_path / "out", "other")
    model.get_submodule("base_model.model.model.layers.1.mlp.up_proj").butterfly_input["default"].data.fill_(pi)
    with pytest.raises(
        AdapterError, match=r"layers.1.mlp.up_proj cannot be exported as OFT: it rotates a plane by half"
    ):
        export_oft(model, tmp_path / "out")
