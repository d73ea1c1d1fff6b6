"""Tokenizers that split text in one of the ways that GGUF has names for."""

from transformers import PreTrainedTokenizerFast

from slm_adapters.base.gguf.pre_tokenizers import named
from slm_testing.export_models import byte_level_tokenizer


def tokenizer_named(pre: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with the pre-tokenizer that GGUF calls ``pre``."""
    known = named(pre)
    assert known is not None, pre
    return byte_level_tokenizer(known.build(), ignore_merges=known.ignore_merges)
