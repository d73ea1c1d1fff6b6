"""Encoding rendered chats in which people wrote special tokens."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import LiteralEncoder, sample_base


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(sample_base())


def test_hidden_special_tokens_are_text_and_the_others_are_tokens(tokenizer: Any) -> None:
    encoder = LiteralEncoder(tokenizer)
    hidden = encoder.hide("a <|endoftext|> b")
    text = f"<|startoftext|>{hidden}<|endoftext|>"
    assert "<|endoftext|>" not in hidden
    assert encoder.reveal(text) == "<|startoftext|>a <|endoftext|> b<|endoftext|>"
    ids = encoder(text, add_special_tokens=False)
    special = [token for token in ids if token in tokenizer.all_special_ids]
    assert special == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == encoder.reveal(text)


def test_a_text_without_special_tokens_is_encoded_as_ever(tokenizer: Any) -> None:
    encoder, text = LiteralEncoder(tokenizer), "Once upon a <b>time</b>"
    assert encoder.hide(text) is text
    for adds in (True, False):
        assert encoder(text, add_special_tokens=adds) == tokenizer(text, add_special_tokens=adds)["input_ids"]


def test_what_hides_special_tokens_cannot_be_guessed(tokenizer: Any) -> None:
    first, second = LiteralEncoder(tokenizer), LiteralEncoder(tokenizer)
    hidden = first.hide("<|endoftext|>")
    assert second.hide(hidden) == hidden != second.hide("<|endoftext|>")
    assert tokenizer.eos_token_id not in second(hidden, add_special_tokens=False)
