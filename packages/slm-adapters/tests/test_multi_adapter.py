"""Several adapters of any methods over one base in memory: each gives the same logits as alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from slm_adapters import AdapterError, LoadedAdapters, load, load_adapters
from slm_testing.adapters.tiny_adapters import MakeBase, MakeModel, adapted, logits, save_run, tokenizer


def answers(loaded: LoadedAdapters, name: str, input_ids: torch.Tensor) -> torch.Tensor:
    (model,) = [
        candidate for candidate in loaded.models if loaded.adapters[name] in getattr(candidate, "peft_config", ())
    ]
    peft_model: Any = model
    peft_model.set_adapter(loaded.adapters[name], inference_mode=True)
    return logits(model, input_ids)


@pytest.fixture
def runs(tiny: MakeModel, make_base: MakeBase, tmp_path: Path) -> dict[str, Path]:
    base = str(make_base("gpt2"))
    folders = {}
    for name in ("lora", "butterfly", "other.lora"):  # PEFT takes no dot in a name
        model = adapted(tiny("gpt2"), name.removeprefix("other."))
        if name == "other.lora":
            with torch.no_grad():
                for key, weight in model.named_parameters():
                    if "lora_B" in key:
                        weight.mul_(-2)
        folders[name] = save_run(model, tmp_path / name, base)
    return folders


def test_each_adapter_and_the_base_give_the_same_logits_as_alone(
    tiny: MakeModel, make_base: MakeBase, runs: dict[str, Path], input_ids: torch.Tensor
) -> None:
    loaded = load_adapters(make_base("gpt2"), runs, device="cpu")
    assert not any(model.training for model in loaded.models)
    assert not any(weight.requires_grad for model in loaded.models for weight in model.parameters())
    for name, run in runs.items():
        assert torch.equal(answers(loaded, name, input_ids), logits(load(run, device="cpu").model, input_ids))
    first: Any = loaded.models[0]
    with first.disable_adapter():
        assert torch.equal(logits(first, input_ids), logits(tiny("gpt2"), input_ids))
    assert loaded.base == str(make_base("gpt2"))


def test_the_base_is_in_memory_once_and_each_method_has_a_model(
    make_base: MakeBase, runs: dict[str, Path], tiny: MakeModel
) -> None:
    loaded = load_adapters(make_base("gpt2"), runs, device="cpu")
    assert len(loaded.models) == 2
    weights = {weight.data_ptr(): weight.numel() for model in loaded.models for weight in model.parameters()}
    alone = [load_adapters(make_base("gpt2"), {name: run}, device="cpu").models[0] for name, run in runs.items()]
    plain = sum(weight.numel() for weight in tiny("gpt2").parameters())
    assert sum(weights.values()) == plain + sum(
        sum(weight.numel() for weight in model.parameters()) - plain for model in alone
    )


def test_without_adapters_it_is_the_plain_base(make_base: MakeBase, tiny: MakeModel, input_ids: torch.Tensor) -> None:
    loaded = load_adapters(make_base("llama"), {}, device="cpu")
    assert torch.equal(logits(loaded.models[0], input_ids), logits(tiny("llama"), input_ids))
    assert not hasattr(loaded.models[0], "peft_config")


def test_an_adapters_folder_as_model_path_stands_for_its_base(
    make_base: MakeBase, runs: dict[str, Path], input_ids: torch.Tensor
) -> None:
    loaded = load_adapters(runs["lora"], {"mine": runs["lora"]}, device="cpu")
    assert torch.equal(answers(loaded, "mine", input_ids), logits(load(runs["lora"], device="cpu").model, input_ids))
    assert loaded.base == str(make_base("gpt2"))


def test_a_folder_that_is_no_adapter_or_of_another_model_is_refused(
    tiny: MakeModel, make_base: MakeBase, runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="holds a whole model"):
        load_adapters(make_base("gpt2"), {"base": make_base("gpt2")}, device="cpu")
    other = save_run(adapted(tiny("llama"), "lora"), tmp_path / "llama", str(make_base("llama")))
    with pytest.raises(AdapterError, match="does not fit"):
        load_adapters(make_base("gpt2"), {"lora": runs["lora"], "other": other}, device="cpu")


@pytest.mark.parametrize(("setting", "value"), [("init_lora_weights", "pissa"), ("bias", "all")])
def test_an_adapter_that_changes_the_base_is_refused(
    make_base: MakeBase, runs: dict[str, Path], setting: str, value: str
) -> None:
    config = runs["lora"] / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {setting: value}))
    with pytest.raises(AdapterError, match=f"changes the base \\({setting}='{value}'\\).* merge it first"):
        load_adapters(make_base("gpt2"), runs, device="cpu")


def test_adapters_trained_over_4_bit_weights_have_their_own_4_bit_base(
    tiny: MakeModel, make_base: MakeBase, runs: dict[str, Path], tmp_path: Path, input_ids: torch.Tensor
) -> None:
    qlora_run = save_run(adapted(tiny("gpt2"), "lora"), tmp_path / "qlora", str(make_base("gpt2")), mode="qlora")
    loaded = load_adapters(make_base("gpt2"), {"small": qlora_run, "lora": runs["lora"]}, device="cpu")
    assert len(loaded.models) == 2
    expected = logits(load(qlora_run, device="cpu").model, input_ids)
    assert torch.equal(answers(loaded, "small", input_ids), expected)
    assert not torch.equal(answers(loaded, "lora", input_ids), expected)
    first: Any = loaded.models[0]
    with first.disable_adapter():
        assert torch.equal(logits(first, input_ids), logits(tiny("gpt2"), input_ids))


@pytest.mark.parametrize("base_has_one", [False, True])
def test_each_model_has_its_own_tokenizer(
    base_has_one: bool, make_base: MakeBase, runs: dict[str, Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(make_base("gpt2"), tmp_path / "base"))
    for file in base.glob("tokenizer*"):
        file.unlink()
    for folder, template in ((base, "base"), (runs["lora"], "lora"), (runs["butterfly"], "butterfly")):
        if base_has_one or folder != base:
            own = tokenizer()
            own.chat_template = template
            own.save_pretrained(folder)
    if base_has_one:
        (runs["other.lora"] / "tokenizer.json").unlink()
        (runs["other.lora"] / "tokenizer_config.json").unlink()
    loaded = load_adapters(base, runs, device="cpu").tokenizers
    templates = {name: own.chat_template for name, own in loaded.adapters.items()}
    assert templates == {"lora": "lora", "butterfly": "butterfly", "other.lora": "base" if base_has_one else None}
    assert loaded.base
    assert loaded.base.chat_template == ("base" if base_has_one else "lora")


def test_adapters_with_different_vocabularies_are_refused(make_base: MakeBase, runs: dict[str, Path]) -> None:
    own = tokenizer()
    own.add_tokens(["<|im_end|>"])
    own.save_pretrained(runs["butterfly"])
    with pytest.raises(AdapterError, match=r"lora and .*butterfly have different vocabularies \('<\|im_end\|>'"):
        load_adapters(make_base("gpt2"), runs, device="cpu")
