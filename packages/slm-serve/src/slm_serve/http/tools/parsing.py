"""Reading the calls in an answer, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slm_serve.http.tools.call_format import CallFormat

Kind = Literal["content", "call", "arguments"]


@dataclass(frozen=True)
class Piece:
    """A piece of an answer: text, the name of a function whose call begins, or a part of its arguments."""

    kind: Kind
    text: str


class CallParser:
    """Splits a text into its content and its calls: ``push`` text, get pieces.

    The grammar has kept the calls valid, so that they are found by the text around them.

    Attributes:
        calls: The number of calls that have begun.
        complete: Whether all of them are whole.

    Args:
        form: How calls are written.
        only_at_start: Calls follow no text, as the answer is JSON otherwise.
    """

    def __init__(self, form: CallFormat, *, only_at_start: bool = False) -> None:
        self._form = form
        self._only_at_start = only_at_start or not form.marker
        self._state: Literal["content", "name", "arguments", "after"] = "content"
        self._pending = ""
        self._may_begin = True  # whether a call may still begin
        self._json = _JSONEnd()
        self.calls = 0

    @property
    def complete(self) -> bool:
        """Whether all calls are whole."""
        return self._state in ("content", "after")

    def push(self, text: str) -> list[Piece]:
        """Add text and return the pieces that have become certain."""
        self._pending += text
        pieces: list[Piece] = []
        while piece := self._next():
            pieces += [piece] if piece.text else []
        return pieces

    def finish(self) -> list[Piece]:
        """Return the content that was held back. Called after the last text."""
        held_back, self._pending = self._pending, ""
        return [Piece("content", held_back)] if self._state == "content" and held_back else []

    def _next(self) -> Piece | None:
        """Return the next piece, empty if only the state has changed; None if more text is needed."""
        match self._state:
            case "content":
                return self._content()
            case "name":
                return self._name()
            case "arguments":
                return self._arguments()
        return self._after()

    def _content(self) -> Piece | None:
        prefix, pending = self._form.prefix, self._pending
        if self._may_begin and (start := pending.find(prefix)) >= 0 and (start == 0 or not self._only_at_start):
            self._state, self._pending = "name", pending[start + len(prefix) :]
            return Piece("content", pending[:start].rstrip())
        certain = len(pending) - self._uncertain(pending)
        if not certain:
            return None
        self._may_begin = not self._only_at_start
        self._pending = pending[certain:]
        return Piece("content", pending[:certain])

    def _uncertain(self, pending: str) -> int:
        """The length of the end of the text that may belong to calls: part of a prefix, and whitespace before it."""
        prefix = self._form.prefix
        if not self._may_begin:
            return 0
        if self._only_at_start:
            return len(pending) if prefix.startswith(pending) else 0
        sizes = range(min(len(prefix), len(pending)), 0, -1)
        length = next((size for size in sizes if pending.endswith(prefix[:size])), 0)
        before = pending[: len(pending) - length]
        return length + len(before) - len(before.rstrip())

    def _name(self) -> Piece | None:
        name, middle, rest = self._pending.partition(self._form.middle)
        if not middle:
            return None
        self._state, self._pending, self._json = "arguments", rest, _JSONEnd()
        self.calls += 1
        return Piece("call", name)

    def _arguments(self) -> Piece | None:
        if not self._pending:
            return None
        end = self._json.find(self._pending)
        piece, self._pending = self._pending[:end], self._pending[end:]
        if self._json.ended:
            self._state = "after"
        return Piece("arguments", piece)

    def _after(self) -> Piece | None:
        separator = self._form.separator
        if separator and self._pending.startswith(separator):
            self._state, self._pending = "name", self._pending[len(separator) :]
            return Piece("content", "")
        return None


class _JSONEnd:
    """Finds the end of an object in its text."""

    def __init__(self) -> None:
        self.ended = False
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, text: str) -> int:
        """Return how many characters of ``text`` belong to the object."""
        for index, character in enumerate(text):
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = not self._escaped and character == "\\"
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.ended = True
                    return index + 1
        return len(text)
