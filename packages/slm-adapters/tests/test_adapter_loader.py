"""Adapters that are loaded for a base in use: the same logits as alone, or a refusal before anything is attached."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_adapters import AdapterError, AdapterLoader, load, load_adapters
from slm_testing.adapters.tiny_adapters import (
    MakeBase,
    MakeModel,
    adapted,
    assert_same_bits,
    copy_state,
    edit_json,
    logits,
    save_run,
    tokenizer,
)


@pytest.fixture
def loader(make_base: MakeBase) -> AdapterLoader:
    return load_adapters(make_base("gpt2"), {}, device="cpu").loader


@pytest.fixture
def lora(tiny: MakeModel, make_base: MakeBase, tmp_path: Path) -> Path:
    return save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "lora", str(make_base("gpt2")))


@pytest.mark.parametrize("method", ["lora", "butterfly"])
def test_an_attached_adapter_gives_the_logits_of_one_that_was_loaded_alone(
    method: str, loader: AdapterLoader, tiny: MakeModel, make_base: MakeBase, tmp_path: Path, input_ids: torch.Tensor
) -> None:
    folder = save_run(adapted(tiny("gpt2"), method), tmp_path / "run", str(make_base("gpt2")))
    base = load(make_base("gpt2"), device="cpu").model
    before = copy_state(base)
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    adapter = loader.read(folder)
    attached = loader.attach(copy.deepcopy(base, memo), adapter, "red")
    assert not any(weight.requires_grad for weight in attached.parameters())
    assert torch.equal(logits(attached.eval(), input_ids), logits(load(folder, device="cpu").model, input_ids))
    assert_same_bits(copy_state(base), before)
    assert adapter.tokenizer is not None


def test_the_end_of_text_of_an_adapter_is_that_of_its_model_only(loader: AdapterLoader, lora: Path) -> None:
    (lora / "generation_config.json").write_text(json.dumps({"eos_token_id": [7]}))
    base: Any = load(loader.base.location, device="cpu").model
    own = base.generation_config.eos_token_id
    attached: Any = loader.attach(copy.deepcopy(base), loader.read(lora), "red")
    assert 7 in attached.get_base_model().generation_config.eos_token_id
    assert base.generation_config.eos_token_id == own


def test_an_adapter_without_a_tokenizer_uses_the_bases(loader: AdapterLoader, lora: Path) -> None:
    for file in lora.glob("tokenizer*"):
        file.unlink()
    assert loader.read(lora).tokenizer is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"bias": "all"}, "bias='all'"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication"),
    ],
)
def test_an_adapter_that_changes_its_base_is_refused(
    setting: dict[str, Any], message: str, loader: AdapterLoader, lora: Path
) -> None:
    edit_json(lora / "adapter_config.json", **setting)
    with pytest.raises(AdapterError, match="changes the base") as raised:
        loader.read(lora)
    assert message in str(raised.value)


def test_an_adapter_of_other_tokens_weights_or_models_is_refused(
    loader: AdapterLoader, lora: Path, tiny: MakeModel, make_base: MakeBase, tmp_path: Path
) -> None:
    larger = Path(shutil.copytree(lora, tmp_path / "larger"))
    own = tokenizer()
    own.add_tokens(["<|im_end|>"])
    own.save_pretrained(larger)
    with pytest.raises(AdapterError, match=r"another vocabulary than the one in use \('<\|im_end\|>'"):
        loader.read(larger)
    edit_json(lora / "run.json", mode="qlora")
    with pytest.raises(AdapterError, match="trained over 4-bit weights, and the base was loaded with weights that are"):
        loader.read(lora)
    with pytest.raises(AdapterError, match="holds a whole model"):
        loader.read(make_base("gpt2"))
    other = save_run(adapted(tiny("llama"), "lora"), tmp_path / "llama", str(make_base("llama")))
    with pytest.raises(AdapterError, match="does not fit"):
        loader.attach(load(make_base("gpt2"), device="cpu").model, loader.read(other), "red")
