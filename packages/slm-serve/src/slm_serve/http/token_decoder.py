"""Texts of single tokens, for log-probabilities."""

from __future__ import annotations

from typing import Any

# SentencePiece writes the space before a word as this character, and drops that space when it decodes a single token.
WORD_START = "▁"


class TokenDecoder:
    """Decodes single tokens. A token that is only a part of a character becomes U+FFFD."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

    def text(self, token_id: int) -> str:
        """Return the text of a token as it appears within a longer text."""
        text = str(self._tokenizer.decode([token_id]))
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        starts_word = isinstance(token, str) and token.startswith(WORD_START) and not text.startswith(" ")
        return f" {text}" if starts_word else text

    def length(self, token_id: int) -> int:
        """Return the number of characters of a token in a text; 0 for special tokens, which texts leave out."""
        return 0 if token_id in self._special else len(self.text(token_id))
