"""A tokenizer that knows the tokens of ChatML."""

import pytest
from transformers import PreTrainedTokenizerBase

from slm_data.tokens.bpe import train_tokenizer


@pytest.fixture(scope="session")
def chat_tokenizer(sentences: tuple[str, ...]) -> PreTrainedTokenizerBase:
    tokenizer = train_tokenizer(sentences, 320, 128)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer
