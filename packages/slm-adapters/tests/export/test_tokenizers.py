"""Tokenizers in GGUF: recognised pre-tokenizers, scores instead of merges, special tokens, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from slm_adapters import AdapterError, export_gguf
from slm_adapters.base.gguf.pre_tokenizers import PRE_TOKENIZERS, recognise
from slm_testing.export_models import byte_level_tokenizer, save_model, tiny_model

SPACE = "\u2581"


def fields(path: Path) -> dict[str, Any]:
    reader = pytest.importorskip("gguf").GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("known", PRE_TOKENIZERS, ids=lambda known: known.gguf)
def test_a_pre_tokenizer_is_recognised_by_what_it_does(known: Any) -> None:
    assert recognise(known.build(), known.ignore_merges) is known


def test_one_that_splits_in_another_way_is_not_recognised() -> None:
    assert recognise(pre_tokenizers.ByteLevel(add_prefix_space=True), ignore_merges=False) is None
    assert recognise(pre_tokenizers.Whitespace(), ignore_merges=False) is None
    digits = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d{1,2}"), "isolated"), pre_tokenizers.ByteLevel()])
    assert recognise(digits, ignore_merges=False) is None


def export(folder: Path, tokenizer: PreTrainedTokenizerFast, model: str = "llama") -> dict[str, Any]:
    exported = export_gguf(save_model(folder / "model", tiny_model(model), tokenizer), folder / "out", dtype="f32")
    return fields(exported.file)


def test_the_tokens_merges_and_special_tokens_are_written(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = "{{ messages }}"
    keys = export(tmp_path, tokenizer)
    tokens = keys["tokenizer.ggml.tokens"]
    assert [keys[f"tokenizer.ggml.{key}"] for key in ("model", "pre", "bos_token_id", "eos_token_id")] == [
        "gpt2",
        "gpt-2",
        0,
        1,
    ]
    assert all(tokens[index] == token for token, index in tokenizer.get_vocab().items())
    assert len(tokens) == len(set(tokens)) == 320  # the rows without a token have names
    types = keys["tokenizer.ggml.token_type"]
    control, user_defined, unused, normal = 3, 4, 5, 1
    assert [types[tokens.index(token)] for token in ("<s>", "<think>", "[PAD319]", "Ġthe")] == [
        control,
        user_defined,
        unused,
        normal,
    ]
    assert "t h" in keys["tokenizer.ggml.merges"]
    assert keys["tokenizer.chat_template"] == "{{ messages }}"
    assert keys["tokenizer.ggml.add_bos_token"] is False


def test_all_end_tokens_of_the_generation_config_have_a_key(tmp_path: Path) -> None:
    model = tiny_model("llama")
    assert model.generation_config is not None
    model.generation_config.eos_token_id = [3, 1]
    keys = fields(export_gguf(save_model(tmp_path / "model", model), tmp_path / "out", dtype="f32").file)
    assert (keys["tokenizer.ggml.eos_token_id"], keys["tokenizer.ggml.eot_token_id"]) == (1, 3)


def byte_fallback_tokenizer(drop: str = "") -> PreTrainedTokenizerFast:
    """Return a tokenizer as Llama 2's: all ways to make each token are merges, except ``drop``."""
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    words = ["th", "the", f"{SPACE}t", f"{SPACE}th", f"{SPACE}the"]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, SPACE, *"abcdehit", *words]
    merges = [
        (word[:cut], word[cut:])
        for word in words
        for cut in range(1, len(word))
        if word[:cut] in tokens and word[cut:] in tokens and f"{word[:cut]} {word[cut:]}" != drop
    ]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_a_tokenizer_with_byte_fallback_gets_scores(tmp_path: Path) -> None:
    keys = export(tmp_path, byte_fallback_tokenizer(), "phi3")
    assert keys["tokenizer.ggml.model"] == "llama"
    assert keys["tokenizer.ggml.add_space_prefix"] is True
    scores = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True))
    assert scores["th"] > scores["the"] > scores[f"{SPACE}t"] > scores[f"{SPACE}th"] > scores["a"]
    types = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"], strict=True))
    assert types["<0x0A>"] == 6


def test_merges_that_scores_cannot_express_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"its merges lack 't' \+ 'he'|its merges lack '▁t' \+ 'h'"):
        export(tmp_path, byte_fallback_tokenizer(drop=f"{SPACE}t h"), "phi3")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda backend: setattr(backend, "normalizer", normalizers.Lowercase()), r"changes text first \(Lowercase\)"),
        (
            lambda backend: setattr(backend, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
            "splits text into words in a way that is none of those that llama.cpp knows",
        ),
    ],
    ids=["normalizer", "pre-tokenizer"],
)
def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(change: Any, reason: str, tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    change(tokenizer.backend_tokenizer)
    with pytest.raises(AdapterError, match=reason):
        export(tmp_path, tokenizer, "granite")
    assert not (tmp_path / "out").exists()


def test_a_model_without_an_end_token_is_refused(tmp_path: Path) -> None:
    model: Any = tiny_model("granite")
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    tokenizer = byte_level_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(AdapterError, match=r"no token that ends a text, and llama\.cpp would take token 11 for it"):
        export_gguf(save_model(tmp_path / "model", model, tokenizer), tmp_path / "out")
