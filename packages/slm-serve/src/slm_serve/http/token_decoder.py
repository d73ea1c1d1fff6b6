"""Tokens as texts, for log-probabilities."""

from __future__ import annotations

from typing import Any

WORD_BEGINS = "▁"  # how SentencePiece writes the space before a word, which decoding one token alone drops


class TokenTexts:
    """The text of one token at a time. A part of a character shows as U+FFFD."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

    def text(self, token_id: int) -> str:
        """As it reads within a text."""
        text = str(self._tokenizer.decode([token_id]))
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        begins = isinstance(token, str) and token.startswith(WORD_BEGINS) and not text.startswith(" ")
        return f" {text}" if begins else text

    def length(self, token_id: int) -> int:
        """Characters that it takes in a text; special tokens have no place there."""
        return 0 if token_id in self._special else len(self.text(token_id))
