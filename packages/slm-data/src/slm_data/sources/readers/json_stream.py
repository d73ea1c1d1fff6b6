"""Decoding JSON values one after another from text in pieces, with the memory of one value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from slm_data.errors import DataError
from slm_data.sources.decoding import text_decoding

_WHITESPACE = re.compile(r"[ \t\n\r]*")
# An error this close to the end of the piece may be a value that continues in the next: "fals", "\ud83", "-Infinit".
_MAX_TOKEN = 32


class JsonStream:
    """A position in a JSON text, of which only the current part is in memory."""

    def __init__(self, chunks: Iterator[str], path: Path) -> None:
        self._chunks = chunks
        self._path = path
        self._text, self._position, self._line = "", 0, 1
        self._decoder = json.JSONDecoder()

    @property
    def where(self) -> str:
        return f"{self._path}, line {self._line}"

    def peek(self) -> str:
        """Return the next character that is not white space, or an empty string at the end of the text."""
        while True:
            match = _WHITESPACE.match(self._text, self._position)
            assert match is not None
            self._move_to(match.end())
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._read_more(1):
                return ""

    def take(self, expected: str) -> str:
        """Read one character that must be among ``expected``, and return it."""
        found = self.peek()
        if not found or found not in expected:
            # repr of a character, or of nothing at the end
            raise self.error(f"expected {' or '.join(expected)}, found {found or 'the end of the file'}")
        self._move_to(self._position + 1)
        return found

    def decode(self) -> Any:
        """Read one value."""
        self.peek()
        pieces = 1
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                if not self._may_continue(error) or not self._read_more(pieces):
                    self._move_to(min(error.pos, len(self._text)))
                    raise self.error(error.msg) from error
            except RecursionError as error:
                raise self.error("nested too deeply") from error
            else:
                # The digits of a number may continue in the next piece.
                is_whole = not isinstance(value, int | float) or end < len(self._text) - _MAX_TOKEN
                if is_whole or not self._read_more(pieces):
                    self._move_to(end)
                    return value
            pieces *= 2  # a long value is parsed anew a few times only

    def error(self, problem: str) -> DataError:
        """Return an error at the current position."""
        return DataError(f"{self.where}: broken JSON ({problem}); repair the file, or write one object per line")

    def _may_continue(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _MAX_TOKEN

    def _read_more(self, pieces: int) -> bool:
        """Append the next pieces to the text from the current position on. Returns whether there were any.

        If there are none, nothing changes, so that positions in the text stay valid.
        """
        if len(self._text) - self._position > text_decoding.MAX_LENGTH:
            raise DataError(
                f"{self.where}: a value longer than {text_decoding.MAX_LENGTH >> 20} Mi characters, or a quote that "
                "is never closed; split its text into several"
            )
        added = list(islice(self._chunks, pieces))
        if added:
            self._text, self._position = self._text[self._position :] + "".join(added), 0
        return bool(added)

    def _move_to(self, position: int) -> None:
        self._line += self._text.count("\n", self._position, position)
        self._position = position
