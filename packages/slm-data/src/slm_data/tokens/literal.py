"""Special tokens that are written in texts by people: finding them, and encoding them as plain text."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from slm_data.examples.rendering import Range
from slm_data.tokens.settings import EncodingOptions, encoding_settings, literal_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class SpecialTexts:
    """Finds special tokens that are written in texts."""

    def __init__(self, tokens: Iterable[str]):
        by_length = sorted(filter(None, tokens), key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, by_length))) if by_length else None
        self._beginnings = {token[:2] for token in by_length}  # searching for these first is much faster

    def count(self, text: str) -> int:
        if self.pattern is None or not any(beginning in text for beginning in self._beginnings):
            return 0
        return sum(1 for _ in self.pattern.finditer(text))

    def rename(
        self, text: str, literal: Sequence[Range], ranges: Sequence[Range], names: dict[str, str]
    ) -> tuple[str, tuple[Range, ...]]:
        """Give the special tokens outside of ``literal`` ranges other names; return the text, and where ranges are."""
        assert self.pattern
        parts: list[str] = []
        position, shifts = 0, [(0, 0)]  # shifts: from this character on, by so many characters
        for match in self.pattern.finditer(text):
            if any(start < match.end() and match.start() < end for start, end in literal):
                continue
            parts += [text[position : match.start()], names[match.group()]]
            position = match.end()
            shifts.append((position, shifts[-1][1] + len(names[match.group()]) - len(match.group())))
        moved = tuple((_moved(start, shifts), _moved(end, shifts)) for start, end in ranges)
        return "".join([*parts, text[position:]]), moved


class LiteralEncoder:
    """Encodes rendered chats as training does: special tokens in contents are plain text, the template's are tokens.

    The special tokens in contents are hidden before a template renders them: ``encoder(render(encoder.hide(text)))``.

    Raises DataError for a tokenizer that cannot read special tokens as plain text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        settings = encoding_settings(tokenizer, EncodingOptions(), data_format="text")
        self._tokenizer, self._names = literal_tokenizer(settings)
        self._special = SpecialTexts(settings.special_tokens)
        # Letters and digits, which no template changes, and which nobody can write on purpose.
        key = secrets.token_hex(8)
        self._hidden = {token: f"special{key}n{index}x" for index, token in enumerate(settings.special_tokens)}

    def hide(self, text: str) -> str:
        """Return a content with other names for the special tokens in it; without any, the same object."""
        if not self._special.count(text):
            return text
        assert self._special.pattern
        return self._special.pattern.sub(lambda match: self._hidden[match.group()], text)

    def reveal(self, text: str) -> str:
        """Return a rendered text with what was hidden."""
        for token, name in self._hidden.items():
            text = text.replace(name, token)
        return text

    def __call__(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a rendered text with hidden special tokens."""
        if self._special.count(text):
            text, _ = self._special.rename(text, (), (), self._names)
        return list(self._tokenizer.encode(self.reveal(text), add_special_tokens=add_special_tokens).ids)


def _moved(position: int, shifts: Sequence[tuple[int, int]]) -> int:
    return position + next(shift for start, shift in reversed(shifts) if start <= position)
