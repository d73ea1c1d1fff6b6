"""``train_tokenizer``: a byte-level BPE tokenizer learned from the training texts."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from slm_data.errors import DataError

START, END = "<|startoftext|>", "<|endoftext|>"
BYTE_VALUES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerBase:
    """Train byte-level BPE on ``texts``; any text decodes back to the same bytes.

    The tokenizer puts ``<|startoftext|>`` (id 0) before each text. ``<|endoftext|>`` (id 1) ends a document and is
    the padding token.

    Args:
        texts: Training texts, read once.
        vocab_size: Entries of the vocabulary, special tokens included.
        model_max_length: The model's context in tokens; stored in the tokenizer's configuration.

    Raises:
        DataError: ``vocab_size`` is below 258.
    """
    if vocab_size < BYTE_VALUES + 2:
        raise DataError(
            f"--vocab_size {vocab_size} is too small; use {BYTE_VALUES + 2} or more, for {BYTE_VALUES} byte values, "
            "a start and an end token"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Without the full alphabet, bytes that do not occur in the training texts could not be encoded.
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[START, END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", pair=f"{START} $A $B", special_tokens=[(START, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=model_max_length,
        # The clean-up removes spaces before punctuation, so texts would not decode back to the same bytes.
        clean_up_tokenization_spaces=False,
    )
