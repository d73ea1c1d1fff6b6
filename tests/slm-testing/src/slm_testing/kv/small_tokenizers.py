"""Small tokenizers of several kinds, trained on a few lines."""

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "Hello world, hello there.",
    "the cat  sat on the mat\n\tand left",
    "你好世界",
    "😀 smile 😀👍🏽",
    "naïve café ﬁn",
] * 3
END = "<|end|>"


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def metaspace() -> PreTrainedTokenizerFast:
    """Like Llama's tokenizer: words begin with a space, the first is dropped, unknown characters become bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", END], show_progress=False)
    tokenizer.train_from_iterator([line for line in LINES if line.isascii()], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = model["vocab"] | {f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer.model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """Like T5's tokenizer: pieces with probabilities; a character that it does not know is lost."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    options: dict[str, Any] = {"unk_token": "<unk>", "special_tokens": ["<unk>", END], "show_progress": False}
    trainer = trainers.UnigramTrainer(vocab_size=200, initial_alphabet=list(map(chr, range(32, 127))), **options)
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, unk_token="<unk>")


def characters() -> PreTrainedTokenizerFast:
    """One token for each character, and no end token."""
    vocab = {character: id for id, character in enumerate(["\n", *map(chr, range(32, 127)), "<unk>"])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def word_pieces() -> PreTrainedTokenizerFast:
    """Like BERT's tokenizer: its decoder puts a space between words."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    tokenizer.train_from_iterator(LINES, trainers.WordPieceTrainer(special_tokens=["<unk>"], show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
