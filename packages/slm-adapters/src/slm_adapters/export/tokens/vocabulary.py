"""A tokenizer as tokens, types, merges or scores for GGUF."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import gguf

from slm_adapters.base.gguf.pre_tokenizers import PreTokenizer, recognise
from slm_adapters.errors import AdapterError
from slm_adapters.export.tokens.sentencepiece import (
    check_sentencepiece,
    is_sentencepiece,
    piece_scores,
    puts_space_first,
)

REMEDY = "serve the model with slm-serve, or train with a tokenizer of byte-level BPE (slm-train --vocab_size)"
INEXACT = "llama.cpp's pre-tokenizer of this kind splits some words otherwise that are not in ASCII, such as ÉCOLE"


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp needs to know about a tokenizer.

    Attributes:
        model: "gpt2" for byte-level BPE, "llama" for BPE over characters with byte fallback, as SentencePiece's.
        pre: Name of the pre-tokenizer.
        tokens: Text of each row of the embeddings.
        types: Value of ``gguf.TokenType`` of each.
        merges: Pairs, best first; for byte-level BPE.
        scores: A score for each token; for SentencePiece.
        space_first: Whether a space is put before a text; for SentencePiece.
        notes: Sentences about what llama.cpp does otherwise.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_first: bool | None = None
    notes: list[str] = field(default_factory=list)


def read_vocabulary(tokenizer: Any, rows: int) -> Vocabulary:
    """Return the vocabulary of a tokenizer for a model with ``rows`` tokens.

    Raises AdapterError for a tokenizer whose algorithm or pre-tokenizer llama.cpp does not have.
    """
    content = _content(tokenizer)
    model, normalizer = content["model"], content["normalizer"]
    if model["type"] != "BPE" or model.get("dropout"):
        raise AdapterError(f"llama.cpp has no tokenizer like this one, of the type {_kind(model)}; {REMEDY}")
    if is_sentencepiece(content):
        check_sentencepiece(content)
        tokens, types = _tokens(content, rows, sentencepiece=True)
        scores = piece_scores(model, tokens)
        return Vocabulary("llama", "default", tokens, types, scores=scores, space_first=puts_space_first(content))
    tokens, types = _tokens(content, rows, sentencepiece=False)
    pre = _pre_tokenizer(tokenizer, model)
    notes = _normalizer_notes(normalizer) + ([] if pre.is_exact else [INEXACT])
    return Vocabulary("gpt2", pre.gguf, tokens, types, _merges(model), notes=notes)


def write_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """Add a vocabulary to a ``GGUFWriter``."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.space_first is not None:
        writer.add_add_space_prefix(vocabulary.space_first)


def _content(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise AdapterError(f"the tokenizer ({type(tokenizer).__name__}) has no tokenizer.json; {REMEDY}")
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def _kind(model: dict[str, Any]) -> str:
    return f"{model['type']} with dropout" if model.get("dropout") else str(model["type"])


def _tokens(content: dict[str, Any], rows: int, sentencepiece: bool) -> tuple[list[str], list[int]]:
    """Return the text and the type of each row; rows without a token get a name that no token has."""
    model, added = content["model"], content["added_tokens"] or []
    vocabulary: dict[str, int] = model["vocab"] | {token["content"]: token["id"] for token in added}
    tokens, types = [""] * rows, [int(gguf.TokenType.UNUSED)] * rows
    for text, row in vocabulary.items():
        tokens[row], types[row] = text, _plain_type(text, model, sentencepiece)
    for token in added:
        special = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
        types[token["id"]] = int(special)
    for row in range(rows):
        if types[row] == gguf.TokenType.UNUSED:
            tokens[row] = next(name for mark in ("", "_", "__") if (name := f"[PAD{mark}{row}]") not in vocabulary)
    return tokens, types


def _plain_type(text: str, model: dict[str, Any], sentencepiece: bool) -> int:
    if sentencepiece and len(text) == len("<0x00>") and text.startswith("<0x"):
        return int(gguf.TokenType.BYTE)
    if sentencepiece and text == model.get("unk_token"):
        return int(gguf.TokenType.UNKNOWN)
    return int(gguf.TokenType.NORMAL)


def _pre_tokenizer(tokenizer: Any, model: dict[str, Any]) -> PreTokenizer:
    pre = tokenizer.backend_tokenizer.pre_tokenizer
    known = recognise(pre, bool(model.get("ignore_merges"))) if pre is not None else None
    if known is None:
        raise AdapterError(
            "the tokenizer splits text into words in a way that is none of those that llama.cpp knows, so llama.cpp "
            f"would see other tokens than the model was trained with; {REMEDY}"
        )
    return known


def _merges(model: dict[str, Any]) -> list[str]:
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise AdapterError(f"llama.cpp has no tokenizer with marks inside or at the end of words; {REMEDY}")
    if model.get("unk_token") and len(model["vocab"].keys() & _byte_letters()) < 256:
        raise AdapterError(f"the tokenizer has no token for some bytes, which llama.cpp would leave out; {REMEDY}")
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def _byte_letters() -> set[str]:
    from tokenizers import pre_tokenizers

    return set(pre_tokenizers.ByteLevel.alphabet())


def _normalizer_notes(normalizer: dict[str, Any] | None) -> list[str]:
    if normalizer is None:
        return []
    if (kind := normalizer["type"]) == "NFC":
        return [
            "the tokenizer normalises text to NFC, which llama.cpp leaves out: text in other forms has other tokens"
        ]
    raise AdapterError(f"the tokenizer changes text first ({kind}), which llama.cpp does not do; {REMEDY}")
