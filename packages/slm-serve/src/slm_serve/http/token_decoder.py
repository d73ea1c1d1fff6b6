"""Texts, bytes and positions of single tokens, for log-probabilities."""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

# SentencePiece writes the space before a word as this character, and drops that space when it decodes a single token.
WORD_START = "▁"
CHARACTER_BYTES = 4  # of the longest character in UTF-8


class TokenDecoder:
    """Decodes single tokens. The text of a token that is only a part of a character is U+FFFD.

    Attributes:
        drops_first_space: Whether a text does not begin with the space that its first token has.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)
        self._added = {token_id: str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
        kinds = _decoder_kinds(tokenizer)
        self._is_byte_level, self._has_byte_tokens = "ByteLevel" in kinds, "ByteFallback" in kinds
        self.drops_first_space = bool({"Strip", "Metaspace"} & kinds)

    def text(self, token_id: int) -> str:
        """Return the text of a token as it appears within a longer text."""
        text = str(self._tokenizer.decode([token_id]))
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        starts_word = isinstance(token, str) and token.startswith(WORD_START) and not text.startswith(" ")
        return f" {text}" if starts_word else text

    def bytes(self, token_id: int) -> bytes:
        """Return what a token adds to a text in UTF-8; nothing for special tokens, which texts leave out.

        The bytes of several tokens joined are the bytes of their text, also where a character takes several tokens.
        """
        if token_id in self._special:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if self._is_byte_level and isinstance(token, str) and BYTES_BY_CHARACTER.keys() >= set(token):
            return bytes(BYTES_BY_CHARACTER[character] for character in token)
        if self._has_byte_tokens and (byte := _byte_token(token)) is not None:
            return byte
        return self.text(token_id).encode()

    def is_byte(self, token_id: int) -> bool:
        """Whether the token is one byte, written as ``<0xE2>``; invalid bytes become a character each."""
        return self._has_byte_tokens and _byte_token(self._tokenizer.convert_ids_to_tokens(token_id)) is not None


@lru_cache(maxsize=16)
def token_decoder(tokenizer: Any) -> TokenDecoder:
    """Return the decoder of a tokenizer."""
    return TokenDecoder(tokenizer)


class TextOffsets:
    """Finds where tokens begin in a text, in characters, while they arrive.

    A token that is a part of a character begins where the character begins. The slices of the text from each token to
    the next one are the text.

    Args:
        position: Characters of the text before the first token.
        starts_text: Whether no other token than special ones precedes.
    """

    def __init__(self, decoder: TokenDecoder, position: int = 0, *, starts_text: bool = False) -> None:
        self._decoder, self.position = decoder, position
        self._drops_space = starts_text and decoder.drops_first_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._run, self._run_start = b"", position  # the latest tokens that are single bytes
        self._prompt_run = b""  # those at the end of the prompt

    def begin_after(self, prompt_ids: Sequence[int]) -> None:
        """Remember the beginning of a character with which the prompt ends, without counting it."""
        for token_id in prompt_ids[-CHARACTER_BYTES:]:
            data = self._decoder.bytes(token_id)
            self._prompt_run = self._prompt_run + data if self._decoder.is_byte(token_id) else b""
            self._utf8.decode(data)

    def add(self, token_id: int) -> int:
        """Return where the next token begins."""
        self._end_run(token_id)
        start, data = self.position, self._decoder.bytes(token_id)
        if self._drops_space and data:
            self._drops_space, data = False, data.removeprefix(b" ")
        self.position += len(self._utf8.decode(data))
        return start

    def _end_run(self, token_id: int) -> None:
        """Count the characters of a run of bytes: if it is not valid, each byte is one."""
        if self._decoder.is_byte(token_id):
            self._run_start = self._run_start if self._run else self.position
            self._run += self._decoder.bytes(token_id)
        else:
            if self._run and not (_is_utf8(self._run) or _is_utf8(self._prompt_run + self._run)):
                self.position = self._run_start + len(self._run)
                self._utf8.reset()
            self._run = self._prompt_run = b""


def prompt_offsets(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[int, ...]:
    """Return where the tokens of a whole text begin in it.

    If the tokenizer changes texts, for example to lower case, its own offsets are taken, where possible; in them a
    token may begin after its space.
    """
    decoder = token_decoder(tokenizer)
    if tokenizer.is_fast and b"".join(map(decoder.bytes, ids)) not in (text.encode(), f" {text}".encode()):
        for adds_special in (True, False):
            encoded = tokenizer(text, add_special_tokens=adds_special, return_offsets_mapping=True, verbose=False)
            if encoded["input_ids"] == list(ids):
                return tuple(start for start, _ in encoded["offset_mapping"])
    offsets = TextOffsets(decoder, starts_text=True)
    return tuple(min(offsets.add(token_id), len(text)) for token_id in ids)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _byte_token(token: Any) -> bytes | None:
    """Return the byte of a token such as ``<0xE2>``."""
    if isinstance(token, str) and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return None


def _decoder_kinds(tokenizer: Any) -> frozenset[str]:
    """Return the types of the decoders of a fast tokenizer, which are pickled as JSON."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    description = json.loads(decoder.__getstate__()) if decoder is not None else {}
    parts = description.get("decoders", [description])
    return frozenset(part.get("type", "") for part in parts)


def _bytes_by_character() -> dict[str, int]:
    """Return the bytes for which the characters of a byte-level vocabulary stand (GPT-2's table)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTES_BY_CHARACTER = _bytes_by_character()
