"""Tokenizers with ids beyond the embeddings, added rows, and modules that are trained with an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from slm_adapters import (
    AdapterError,
    ButterflySettings,
    LoraSettings,
    add_butterfly,
    add_lora,
    embedding_rows,
    find_token_without_row,
    load,
    load_adapters,
    resize_embeddings,
)
from slm_testing.adapters.tiny_adapters import MakeBase, MakeModel, assert_close, logits, tokenizer

ROWS = 48  # of the tiny models; the tokenizer has 46 ids
both_methods = pytest.mark.parametrize("method", ["lora", "butterfly"])
tied_and_untied = pytest.mark.parametrize("name", ["gpt2", "llama"])


def _add(model: Any, method: str, **settings: Any) -> PeftModel:
    if method == "lora":
        return add_lora(model, LoraSettings(r=2, **settings))
    return add_butterfly(model, ButterflySettings(**settings))


def _train(model: Any, input_ids: Tensor) -> Any:
    """Take two large steps, so that every trained value differs from what it was."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        optimizer.step()
    return model.eval()


def _larger_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the tiny models with tokens up to id 49, two beyond the embeddings."""
    larger = tokenizer()
    larger.add_tokens([f"<{number}>" for number in range(ROWS + 2 - len(larger))])
    return larger


def _save(adapted: Any, base: Path, folder: Path) -> Path:
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    _larger_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("added", "special", "template", "is_found"),
    [
        (["x1", "x2", "x3"], False, None, True),
        (["x1", "x2"], False, None, False),  # they just fit
        (["x1", "x2", "x3"], True, None, False),  # only a text that spells it out contains it
        (["x1", "x2", "x3"], True, "{{ 'x3' }}", True),
    ],
)
def test_a_token_without_a_row_is_found(added: list[str], special: bool, template: str | None, is_found: bool) -> None:
    larger = tokenizer()
    larger.add_tokens(added, special_tokens=special)
    larger.chat_template = template
    found = find_token_without_row(larger, ROWS)
    assert (found is not None) == is_found
    if found:
        assert (found.token, found.id) == ("x3", ROWS)
    assert (find_token_without_row(larger, ROWS, any_token=True) is not None) == (len(added) == 3)


def test_a_token_with_a_role_counts_although_it_is_special() -> None:
    larger = tokenizer()
    larger.add_tokens(["x1", "x2"])
    larger.add_special_tokens({"pad_token": "<pad>"})
    found = find_token_without_row(larger, ROWS)
    assert found is not None
    assert found.token == "<pad>"


def test_a_folder_whose_tokenizer_has_ids_beyond_the_embeddings_is_refused(make_base: MakeBase) -> None:
    folder = make_base("llama")
    _larger_tokenizer().save_pretrained(folder)
    for refused in (lambda: load(folder, device="cpu"), lambda: load_adapters(folder, {}, device="cpu")):
        with pytest.raises(AdapterError, match=r"tokenizer in .* has the token '<2>' with id 48, .* have 48 rows"):
            refused()


@tied_and_untied
def test_new_rows_are_the_mean_of_the_old_ones(tiny: MakeModel, name: str, input_ids: Tensor) -> None:
    model = tiny(name)
    before = logits(model, input_ids)
    source: Any = model.get_input_embeddings()
    mean = source.weight.mean(0)
    assert resize_embeddings(model, ROWS) == 0  # as many as there are: nothing is done
    assert resize_embeddings(model, ROWS + 2) == 2
    after = logits(model, input_ids)
    assert_close(after[..., :ROWS], before)
    assert_close(after[..., ROWS:], before.mean(-1, keepdim=True).expand(-1, -1, 2))
    assert_close(source.weight[ROWS:], mean.expand(2, -1))
    assert model.config.vocab_size == ROWS + 2


@both_methods
@tied_and_untied
@pytest.mark.parametrize("whole", [False, True])
def test_added_rows_survive_saving_loading_merging_and_plain_peft(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path, name: str, method: str, whole: bool
) -> None:
    base, model = make_base(name), tiny(name)
    added = resize_embeddings(model, ROWS + 2)
    embedding = {"gpt2": "wte", "llama": "embed_tokens"}[name]
    ids = torch.tensor([[5, 48, 7, 49, 48, 9]])
    adapted = _train(_add(model, method, new_rows=added, modules_to_save=[embedding] if whole else []), ids)
    expected = logits(adapted, ids)
    run = _save(adapted, base, tmp_path / "run")
    loaded = load(run, device="cpu").model
    assert embedding_rows(loaded) == ROWS + 2
    assert_close(logits(loaded, ids), expected)
    merged = load(run, merge=True, device="cpu").model
    assert_close(logits(merged, ids), expected)
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == (name == "gpt2")
    assert_close(logits(load_adapters(base, {"run": run}, device="cpu").models[0], ids), expected)
    plain = tiny(name)
    plain.resize_token_embeddings(ROWS + 2)
    assert_close(logits(PeftModel.from_pretrained(plain, run).eval(), ids), expected)


def test_an_adapter_with_tokens_of_its_own_is_loaded_alone(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path
) -> None:
    base, model = make_base("llama"), tiny("llama")
    added = resize_embeddings(model, ROWS + 2)
    own = _save(_add(model, "lora", new_rows=added), base, tmp_path / "own")
    other = _save(_add(tiny("llama"), "lora"), base, tmp_path / "other")
    with pytest.raises(AdapterError, match=r"own has 2 tokens of its own.*load it alone, or merge it"):
        load_adapters(base, {"own": own, "other": other}, device="cpu")


@both_methods
@pytest.mark.parametrize(
    ("name", "saved"), [("gpt2", "ln_f"), ("gpt2", "wte"), ("gpt2", "lm_head"), ("llama", "lm_head")]
)
def test_modules_to_save_are_trained_saved_and_merged(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path, name: str, saved: str, method: str, input_ids: Tensor
) -> None:
    base = make_base(name)
    adapted = _train(_add(tiny(name), method, modules_to_save=[saved]), input_ids)
    expected = logits(adapted, input_ids)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "run", save_embedding_layers=False)
    assert_close(logits(load(tmp_path / "run", device="cpu").model, input_ids), expected)
    merged = load(tmp_path / "run", merge=True, device="cpu").model
    assert_close(logits(merged, input_ids), expected)
    assert (merged.get_output_embeddings().weight is merged.get_input_embeddings().weight) == (name == "gpt2")
    assert_close(logits(PeftModel.from_pretrained(tiny(name), tmp_path / "run").eval(), input_ids), expected)


@both_methods
@pytest.mark.parametrize(
    ("name", "saved", "message"),
    [
        ("gpt2", "wtf", r"'wtf' matches no module of this model; did you mean wte\?"),
        ("gpt2", "h", r"transformer.h: a ModuleList has no weights of its own to train"),
        ("gpt2", "drop", r"transformer.drop: a Dropout has no weights"),
        ("gpt2", "transformer", r"it contains transformer.wte, whose weight is tied to another layer"),
    ],
)
def test_modules_that_cannot_be_saved_are_refused(
    tiny: MakeModel, name: str, saved: str, message: str, method: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        _add(tiny(name), method, modules_to_save=[saved])


def test_embeddings_can_take_a_lora_if_they_are_not_tied(
    tiny: MakeModel, make_base: MakeBase, tmp_path: Path, input_ids: Tensor
) -> None:
    base, names = make_base("llama"), ["embed_tokens", "lm_head", "q_proj"]
    adapted = _train(_add(tiny("llama"), "lora", target_modules=names), input_ids)
    expected = logits(adapted, input_ids)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "run", save_embedding_layers=False)
    assert set(json.loads((tmp_path / "run" / "adapter_config.json").read_text())["target_modules"]) == set(names)
    assert_close(logits(load(tmp_path / "run", device="cpu").model, input_ids), expected)
    assert_close(logits(load(tmp_path / "run", merge=True, device="cpu").model, input_ids), expected)
    with pytest.raises(AdapterError, match=r"wte shares its weight with lm_head"):
        _add(tiny("gpt2"), "lora", target_modules=["wte"])
    with pytest.raises(AdapterError, match=r"'embed_tokens' matches no linear layer"):
        _add(tiny("llama"), "butterfly", target_modules=["embed_tokens"])
