"""A tokenizer of one's own: byte-level BPE learnt from the training texts."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from slm_data.errors import DataError

START, END = "<|startoftext|>", "<|endoftext|>"
BYTES = 256


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE with ``vocab_size`` entries: any text comes back byte for byte.

    Each text opens with ``<|startoftext|>`` (id 0), added by the tokenizer itself; ``<|endoftext|>``
    (id 1) closes a document and serves as padding. Raises DataError below 258 entries.
    """
    if vocab_size < BYTES + 2:
        raise DataError(
            f"--vocab_size {vocab_size} is too small: bytes alone take {BYTES}, and two tokens mark start and end"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
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
        clean_up_tokenization_spaces=False,
    )
