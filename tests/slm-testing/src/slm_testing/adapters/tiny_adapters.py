"""Random adapters that change the output of tiny models, run folders that contain them, and comparisons."""

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

MakeModel = Callable[[str], PreTrainedModel]
MakeBase = Callable[[str], Path]
Save = Callable[..., Path]

all_models = pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "qwen2"])

SETTINGS: dict[str, dict[str, Any]] = {
    "input": {"side": "input"},
    "output-scale": {"side": "output", "scale": True},
    "both-blocks": {"side": "both", "block_size": 16},
    "auto-blocks-stages-scale": {"side": "auto", "block_size": 16, "stages": 3, "scale": True},
    "both-two-sweeps": {"side": "both", "block_size": 8, "stages": 6, "strength": 0.5},
}
all_settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
LLAMA_LINEAR_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def butterfly(model: PreTrainedModel, **settings: Any) -> PeftModel:
    """Return ``model`` with a butterfly adapter whose angles are zero, in eval mode."""
    return get_peft_model(model, ButterflyConfig(task_type="CAUSAL_LM", **settings)).eval()


def randomize_angles(model: nn.Module, adapter: str = "default", seed: int = 0) -> None:
    """Set the angles and magnitudes of ``adapter``, which start at zero, to random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "butterfly_" in name and name.endswith(f".{adapter}"):
                values.normal_(std=0.3, generator=generator)


def random_butterfly(model: PreTrainedModel, seed: int = 0, **settings: Any) -> PeftModel:
    """Return ``model`` with a butterfly adapter whose angles are random, in eval mode."""
    adapted = butterfly(model, **settings)
    randomize_angles(adapted, seed=seed)
    return adapted


def butterfly_layer(side: str = "both", features: tuple[int, int] = (16, 32), **settings: Any) -> ButterflyLayer:
    """Return a layer over ``nn.Linear(*features)`` with random angles."""
    torch.manual_seed(0)
    layer = ButterflyLayer(nn.Linear(*features), "default", ButterflyConfig(side=side, **settings), "layer")
    layer.base_layer.requires_grad_(False)
    randomize_angles(layer)
    return layer


def with_butterfly(model: PreTrainedModel, **settings: Any) -> PeftModel:
    """Return ``model`` with a butterfly adapter whose angles are random by ``init_weights=False``."""
    torch.manual_seed(1)
    return butterfly(model, init_weights=False, **settings)


def with_lora(model: PreTrainedModel) -> PeftModel:
    """Return ``model`` with a LoRA adapter whose second matrix, which starts at zero, is random."""
    torch.manual_seed(1)
    adapted = add_lora(model, LoraSettings(r=4, alpha=8))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return adapted.eval()


def adapted(model: PreTrainedModel, method: str) -> PeftModel:
    """Return ``model`` with a random adapter of ``method``, lora or butterfly, as after training."""
    return with_butterfly(model, scale=True) if method == "butterfly" else with_lora(model)


def logits(model: nn.Module, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=input_ids, use_cache=False, **options).logits
    return values


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each letter."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789 .,!?'-"
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<unk>", *letters])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>")


def save_run(model: PeftModel, folder: Path, base: str, mode: str = "lora") -> Path:
    """Save the adapter and a tokenizer with a run record, as slm-train does."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)
    tokenizer().save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps({"mode": mode, "base": base}))
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """Run ``slm-adapters``, assert that it prints one line to stderr and exits with 2, and return that line."""
    capsys.readouterr()
    assert main([str(arg) for arg in argv]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("slm-adapters: ")
    assert output.err.count("\n") == 1
    return output.err


def layers(model: nn.Module) -> dict[str, ButterflyLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ButterflyLayer)}


def weight(layer: nn.Module) -> torch.Tensor:
    """Return a copy of the weight, ``[out, in]``."""
    parameter: Any = layer.weight
    values: torch.Tensor = parameter.detach().clone()
    return values.T if isinstance(layer, Conv1D) else values


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def assert_same_bits(actual: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert [name for name in actual if not torch.equal(actual[name], expected[name])] == []


def assert_differ(actual: torch.Tensor, other: torch.Tensor) -> None:
    assert not torch.allclose(actual, other, rtol=0, atol=1e-3)


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
