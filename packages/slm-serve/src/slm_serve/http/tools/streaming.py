"""Answers with calls as OpenAI's messages, whole and in deltas."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from slm_serve.http.tools.parsing import CallParser, Piece
from slm_serve.http.tools.plan import ToolPlan

Json = dict[str, Any]
SHORT_ID_LENGTH = 9


class TextAnswer:
    """One answer of a chat without tools, with the interface of ToolAnswer."""

    def push(self, text: str, *, is_last: bool) -> Json:
        """Return what ``text`` adds to the message."""
        return {"content": text}

    def finish_reason(self, reason: str | None) -> str | None:
        """Return OpenAI's finish reason for that of the text."""
        return reason

    def message(self, text: str) -> Json:
        """Return the message of a whole text."""
        return {"role": "assistant", "content": text}


class ToolAnswer(TextAnswer):
    """One answer of a chat with tools: ``push`` text, get the delta of OpenAI's message."""

    def __init__(self, plan: ToolPlan) -> None:
        self._parser = CallParser(plan.form, only_at_start=plan.required or plan.has_format)
        self._short_ids = plan.form.short_ids

    def push(self, text: str, *, is_last: bool) -> Json:
        """Return what ``text`` adds to the message: ``content``, ``tool_calls``, both or nothing."""
        first = self._parser.calls  # the index of the first call that may begin
        pieces = self._parser.push(text)
        if is_last:
            pieces += self._parser.finish()
        return self._delta(pieces, first)

    def finish_reason(self, reason: str | None) -> str | None:
        """Return OpenAI's finish reason for that of the text."""
        calls = reason == "stop" and self._parser.calls and self._parser.complete
        return "tool_calls" if calls else reason

    def message(self, text: str) -> Json:
        """Return the message of a whole text."""
        delta = self.push(text, is_last=True)
        calls = [
            {name: value for name, value in call.items() if name != "index"} for call in delta.get("tool_calls", ())
        ]
        message: Json = {"role": "assistant", "content": delta.get("content", None if calls else "")}
        return message | ({"tool_calls": calls} if calls else {})

    def _delta(self, pieces: Sequence[Piece], index: int) -> Json:
        """Return a delta; ``index`` is that of the next call that begins."""
        calls: dict[int, Json] = {}
        for piece in pieces:
            if piece.kind == "call":
                function = {"name": piece.text, "arguments": ""}
                calls[index] = {"index": index, "id": self._new_id(), "type": "function", "function": function}
                index += 1
            elif piece.kind == "arguments":
                call = calls.setdefault(index - 1, {"index": index - 1, "function": {"arguments": ""}})
                call["function"]["arguments"] += piece.text
        content = "".join(piece.text for piece in pieces if piece.kind == "content")
        return ({"content": content} if content else {}) | ({"tool_calls": list(calls.values())} if calls else {})

    def _new_id(self) -> str:
        unique = uuid.uuid4().hex
        return unique[:SHORT_ID_LENGTH] if self._short_ids else f"call_{unique[:24]}"
