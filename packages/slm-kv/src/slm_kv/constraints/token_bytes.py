"""The bytes that each token of a vocabulary adds to a text."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from slm_kv.errors import GrammarError

BYTE_TOKEN_LENGTH = len("<0x00>")
# Tokenized and decoded to check the bytes: brackets, spaces before punctuation, a contraction, several scripts.
SAMPLE = '{"name": "It \'s a test , is n\'t it ?", "n": [1, -2.5e3, true], "é": "日本語 🙂  x"}\n\n\tend .'
_PLAIN_DECODERS = ("Fuse", "Strip")  # they join tokens, or change the beginning of a text only


class TokenBytes(NamedTuple):
    """What llguidance has to know of a tokenizer.

    Attributes:
        tokens: The bytes of each id, empty for ids without text.
        special_ids: Ids that are no text.
        encoder: A tokenizer that splits the inside of a text as the model knows it; None if there is none.
    """

    tokens: list[bytes]
    special_ids: list[int]
    encoder: Tokenizer | None


def token_bytes(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> TokenBytes:
    """Return the bytes of the ids below ``vocab_size``.

    Ids beyond the tokenizer, which padded embeddings have, get none. A special token has its name.

    Raises:
        GrammarError: the tokenizer does not tell the bytes of a token, or they depend on the tokens around it.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unsupported(tokenizer, "it is not a fast tokenizer")
    added = backend.get_added_tokens_decoder()
    special = {id for id, token in added.items() if token.special}.union(tokenizer.all_special_ids)
    convert = _Converter(tokenizer, _decoders(backend))
    tokens = [b""] * vocab_size
    for text, id in backend.get_vocab(with_added_tokens=True).items():
        if 0 <= id < vocab_size:
            tokens[id] = text.encode() if id in special else convert(text)
    _check(tokenizer, tokens, special)
    special_ids = sorted(id for id in special if id < vocab_size and tokens[id])
    return TokenBytes(tokens, special_ids, _encoder(backend) if convert.byte_level else None)


def _encoder(backend: Any) -> Tokenizer:
    """Return a byte-level tokenizer for the inside of a text: it changes nothing, and special tokens are text there.

    Others write something at the beginning of a text.
    """
    encoder = Tokenizer.from_str(backend.to_str())
    encoder.no_padding()
    encoder.no_truncation()
    encoder.normalizer = None
    encoder.encode_special_tokens = True
    return encoder


class _Converter:
    """Converts the texts of a vocabulary to bytes, as the tokenizer's decoder does."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, decoders: list[dict[str, Any]]) -> None:
        self.byte_level = self._byte_fallback = False
        self._replacements: list[tuple[str, str]] = []
        for decoder in decoders:
            kind = decoder["type"]
            if kind == "ByteLevel":
                self.byte_level = True
            elif kind == "ByteFallback":
                self._byte_fallback = True
            elif kind == "Metaspace":
                self._replacements.append((decoder["replacement"], " "))
            elif kind == "Replace" and "String" in decoder["pattern"]:
                self._replacements.append((decoder["pattern"]["String"], decoder["content"]))
            elif kind not in _PLAIN_DECODERS:
                raise _unsupported(tokenizer, f"its decoder {kind} joins tokens in its own way")

    def __call__(self, text: str) -> bytes:
        if self.byte_level:
            try:
                return bytes(_BYTES_BY_CHARACTER[character] for character in text)
            except KeyError:  # added tokens may have other characters; the decoder takes them as they are
                return text.encode()
        if self._byte_fallback and len(text) == BYTE_TOKEN_LENGTH and text.startswith("<0x") and text.endswith(">"):
            return bytes.fromhex(text[3:5])
        for old, new in self._replacements:
            text = text.replace(old, new)
        return text.encode()


def _decoders(backend: Any) -> list[dict[str, Any]]:
    if backend.decoder is None:
        return []
    decoder = json.loads(backend.decoder.__getstate__())
    return list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _bytes_by_character() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


_BYTES_BY_CHARACTER = _bytes_by_character()


def _check(tokenizer: PreTrainedTokenizerBase, tokens: list[bytes], special: set[int]) -> None:
    """Check that the sample decodes to the bytes of its tokens."""
    ids = tokenizer(SAMPLE, add_special_tokens=False)["input_ids"]
    ids = [id for id in ids if id not in special and id < len(tokens)]
    ids = [*ids, *ids]  # the first half is the text before: some tokenizers drop the space at the start of a text
    before = str(tokenizer.decode(ids[: len(ids) // 2], skip_special_tokens=True))
    decoded = str(tokenizer.decode(ids, skip_special_tokens=True))[len(before) :]
    expected = b"".join(tokens[id] for id in ids[len(ids) // 2 :]).decode(errors="replace")
    if decoded != expected:
        raise _unsupported(tokenizer, "what it decodes is not the text of its tokens in a row")


def _unsupported(tokenizer: PreTrainedTokenizerBase, reason: str) -> GrammarError:
    return GrammarError(f"grammars are not possible with the tokenizer {type(tokenizer).__name__}: {reason}")
