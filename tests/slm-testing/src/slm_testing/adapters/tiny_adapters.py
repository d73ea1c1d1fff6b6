"""What several tests share: adapters that do something, on tiny models, and the folders that runs leave."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from slm_adapters import ButterflyConfig, ButterflyLayer, LoraSettings, add_lora
from slm_adapters.cli import main

Tiny = Callable[[str], PreTrainedModel]
MakeBase = Callable[[str], Path]
Save = Callable[..., Path]

every_model = pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "qwen2"])

SETTINGS: dict[str, dict[str, Any]] = {
    "input": {"side": "input"},
    "output-scale": {"side": "output", "scale": True},
    "both-blocks": {"side": "both", "block_size": 16},
    "auto-blocks-stages-scale": {"side": "auto", "block_size": 16, "stages": 3, "scale": True},
    "both-two-sweeps": {"side": "both", "block_size": 8, "stages": 6, "strength": 0.5},
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def butterfly(model: PreTrainedModel, **settings: Any) -> PeftModel:
    return get_peft_model(model, ButterflyConfig(task_type="CAUSAL_LM", **settings)).eval()


def stir(model: nn.Module, adapter: str = "default", seed: int = 0) -> None:
    """Give a butterfly something to do: its angles start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "butterfly_" in name and name.endswith(f".{adapter}"):
                values.normal_(std=0.3, generator=generator)


def stirred(model: PreTrainedModel, seed: int = 0, **settings: Any) -> PeftModel:
    adapted = butterfly(model, **settings)
    stir(adapted, seed=seed)
    return adapted


def one_layer(side: str = "both", features: tuple[int, int] = (16, 32), **settings: Any) -> ButterflyLayer:
    torch.manual_seed(0)
    made = ButterflyLayer(nn.Linear(*features), "default", ButterflyConfig(side=side, **settings), "layer")
    made.base_layer.requires_grad_(False)
    stir(made)
    return made


def with_butterfly(model: PreTrainedModel, **settings: Any) -> PeftModel:
    """Angles at random."""
    torch.manual_seed(1)
    return butterfly(model, init_weights=False, **settings)


def with_lora(model: PreTrainedModel) -> PeftModel:
    torch.manual_seed(1)
    adapted = add_lora(model, LoraSettings(r=4, alpha=8))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return adapted.eval()


def adapted(model: PreTrainedModel, method: str) -> PeftModel:
    """An adapter that does something, as after training."""
    return with_butterfly(model, scale=True) if method == "butterfly" else with_lora(model)


def logits(model: nn.Module, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=input_ids, use_cache=False, **options).logits
    return found


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?'-"
    vocabulary = {token: at for at, token in enumerate(["<s>", "</s>", "<unk>", *letters])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")


def save_run(model: PeftModel, folder: Path, base: str, mode: str = "lora") -> Path:
    """As slm-train leaves it."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer().save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"mode": mode, "base": base}))
    return folder


def fails(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """What ``slm-adapters`` says as it refuses: one line, nothing else."""
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("slm-adapters: ")
    assert said.err.count("\n") == 1
    return said.err


def layers(model: nn.Module) -> dict[str, ButterflyLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ButterflyLayer)}


def weight(layer: nn.Module) -> torch.Tensor:
    """``[out, in]``"""
    parameter: Any = layer.weight
    held: torch.Tensor = parameter.detach().clone()
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


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
