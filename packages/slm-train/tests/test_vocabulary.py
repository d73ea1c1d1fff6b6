"""Tokenizers with ids beyond the model's embeddings, and the flags that train more than adapters."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from slm_adapters import load
from slm_testing.train.tiny_runs import Refused, Tiny, read_record
from slm_train.cli import main


def _tokenizer(tiny: Tiny, special: bool = False) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny.model)
    tokenizer.add_tokens(["<hero>"], special_tokens=special)
    return tokenizer


@pytest.fixture
def hero(tiny: Tiny, tmp_path: Path) -> Tiny:
    """The tiny model with a tokenizer that has one token more than the embeddings, and texts that contain it."""
    model = shutil.copytree(tiny.model, tmp_path / "hero-model")
    _tokenizer(tiny).save_pretrained(model)
    for name, source in (("texts.txt", tiny.texts), ("held_out.txt", tiny.held_out)):
        (tmp_path / name).write_text(source.read_text().replace(" the ", " <hero> the "))
    return Tiny(model, tmp_path / "texts.txt", tmp_path / "held_out.txt", tiny.cache)


def test_an_added_token_is_refused_before_training(hero: Tiny, tmp_path: Path, refused: Refused) -> None:
    sentence = refused(hero.flags(tmp_path / "run", "--mode", "lora"))
    assert f"the tokenizer in {hero.model} has the token '<hero>' with id 400" in sentence
    assert f"the embeddings of {hero.model} have 400 rows; give --resize_embeddings" in sentence
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_of_another_model_is_named(tiny: Tiny, hero: Tiny, tmp_path: Path, refused: Refused) -> None:
    sentence = refused(tiny.flags(tmp_path / "run", "--tokenizer_path", str(hero.model)))
    assert f"the tokenizer in {hero.model} has" in sentence
    assert f"the embeddings of {tiny.model} have 400 rows; use the model's own tokenizer, or" in sentence


def test_a_special_token_is_refused_only_if_a_text_contains_it_and_is_parsed(
    tiny: Tiny, hero: Tiny, tmp_path: Path, refused: Refused
) -> None:
    _tokenizer(tiny, special=True).save_pretrained(hero.model)
    assert "'<hero>'" in refused(hero.flags(tmp_path / "run", "--parse_special_tokens"))
    assert main(hero.flags(tmp_path / "plain", "--max_steps", "1")) == 0
    assert main(tiny.flags(tmp_path / "other", "--model_path", str(hero.model), "--max_steps", "1")) == 0


@pytest.mark.parametrize("mode", ["baseline", "lora", "butterfly"])
@pytest.mark.parametrize("flow", ["trainer", "dynamic"])
def test_resized_embeddings_are_trained_saved_and_resumed(hero: Tiny, tmp_path: Path, mode: str, flow: str) -> None:
    first, whole = tmp_path / "resumed", tmp_path / "whole"
    interval = ["--checkpoint_interval", "1"] if flow == "dynamic" else ["--save_steps", "1"]
    more = ["--mode", mode, "--resize_embeddings", "--learning_rate", "0.01", "--lr_scheduler_type", "constant"]
    words = ["dynamic", "--target_tokens_per_step", "300"] if flow == "dynamic" else []

    def train(folder: Path, steps: str, *extra: str) -> int:
        return main([*words, *hero.flags(folder, *more, *interval, "--max_steps", steps, *extra)])

    assert train(whole, "2") == 0
    assert train(first, "1") == 0
    assert train(first, "2", "--resume_from_checkpoint", "--accept_changes", "max_steps") == 0
    ids = torch.tensor([[400, 5, 400, 9]])
    results = []
    for folder in (whole, first):
        loaded = load(folder, device="cpu")
        assert loaded.tokenizer("<hero>")["input_ids"][-1] == 400
        with torch.no_grad():
            results.append(loaded.model(input_ids=ids).logits)
    assert results[0].shape[-1] == 401
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)
    assert read_record(whole)["arguments"]["resize_embeddings"] is True


def test_modules_to_save_count_as_trainable_and_are_part_of_the_identity(
    tiny: Tiny, tmp_path: Path, refused: Refused
) -> None:
    flags = ["--target_modules", "all-linear", "--max_steps", "1", "--save_steps", "1"]
    assert main(tiny.flags(tmp_path / "plain", *flags)) == 0
    assert main(tiny.flags(tmp_path / "saved", *flags, "--modules_to_save", "ln_f", "wpe")) == 0
    trainable = [read_record(tmp_path / name)["parameters"]["trainable"] for name in ("plain", "saved")]
    assert trainable[1] - trainable[0] == 2 * 32 + 128 * 32
    sentence = refused(tiny.flags(tmp_path / "saved", *flags, "--resume_from_checkpoint"))
    assert "was trained with --modules_to_save ln_f wpe, now none" in sentence
    assert "--modules_to_save 'ln_x' matches no module" in refused(
        tiny.flags(tmp_path / "none", "--modules_to_save", "ln_x")
    )
