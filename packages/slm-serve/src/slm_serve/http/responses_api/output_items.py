"""The output of ``/v1/responses``: messages and function calls, built from the deltas of a chat.

Streams and whole responses are built by the same code. The objects are OpenAI's, as plain dicts.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
CONTENT_INDEX = 0  # a message has one part, of text


class OutputItems:
    """The output items so far. The last one is open: deltas extend it, until another item begins.

    Attributes:
        items: The items as they are in the response's ``output``.
    """

    def __init__(self) -> None:
        self.items: list[Json] = []
        self._call_index: int | None = None  # of the open item in the chat's ``tool_calls``; None for a message
        self._is_open = False

    def add(self, delta: Json, logprobs: list[Json] | None = None) -> Iterator[Json]:
        """Add a delta of a chat's answer, with ``content`` or ``tool_calls`` or both; yield the events for it."""
        if text := delta.get("content"):
            yield from self._open_message()
            yield self._add_text(text, logprobs or [])
        for call in delta.get("tool_calls") or ():
            yield from self._open_call(call)
            if arguments := call["function"].get("arguments"):
                self.items[-1]["arguments"] += arguments
                yield self._event("response.function_call_arguments.delta", delta=arguments)

    def finish(self, status: str) -> Iterator[Json]:
        """Close the last item with ``status``; an empty answer is a message without text. Yield the events for it."""
        if not self.items:
            yield from self._open_message()
        yield from self._close(status)

    def _close(self, status: str = "completed") -> Iterator[Json]:
        if not self._is_open:
            return
        item = self.items[-1]
        item["status"], self._is_open = status, False
        if item["type"] == "message":
            part = item["content"][CONTENT_INDEX]
            yield self._text_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            yield self._text_event("response.content_part.done", part=part)
        else:
            arguments = {"name": item["name"], "arguments": item["arguments"]}
            yield self._event("response.function_call_arguments.done", **arguments)
        yield {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": item}

    def _open_message(self) -> Iterator[Json]:
        if self._is_open and self._call_index is None:
            return
        yield from self._close()
        part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item = {"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "content": []}
        yield self._open(item, None)
        yield self._text_event("response.content_part.added", part=dict(part))
        self.items[-1]["content"].append(part)

    def _open_call(self, call: Json) -> Iterator[Json]:
        if self._is_open and self._call_index == call["index"]:
            return
        yield from self._close()
        item = {
            "type": "function_call",
            "id": f"fc_{uuid.uuid4().hex}",
            "call_id": call["id"],
            "name": call["function"]["name"],
            "arguments": "",
        }
        yield self._open(item, call["index"])

    def _open(self, item: Json, call_index: int | None) -> Json:
        self.items.append(item | {"status": "in_progress"})
        self._call_index, self._is_open = call_index, True
        added = dict(self.items[-1]) | ({"content": []} if call_index is None else {})  # not changed by later deltas
        return {"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": added}

    def _add_text(self, text: str, logprobs: list[Json]) -> Json:
        part = self.items[-1]["content"][CONTENT_INDEX]
        part["text"] += text
        part["logprobs"] += logprobs
        return self._text_event("response.output_text.delta", delta=text, logprobs=logprobs)

    def _text_event(self, kind: str, **fields: Any) -> Json:
        return self._event(kind, content_index=CONTENT_INDEX, **fields)

    def _event(self, kind: str, **fields: Any) -> Json:
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}
