"""Messages of a chat, as clients write them and as they send answers back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from slm_serve.http.schemas.base.fields import LIST_TAG, TEXT_TAG, Text, text_or_list
from slm_serve.http.schemas.base.lenience import LenientModel, Unsupported, ignore, is_lenient, unsupported_error
from slm_serve.http.schemas.base.refused_fields import MESSAGE_FIELDS

MAX_PARTS = 1000
MAX_TOOL_CALLS = 128
TEXT_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}  # type of the part: field of its text


class TextPart(LenientModel):
    """A part of the content of a message."""

    place: ClassVar[str] = "messages.content."

    type: Literal["text"]
    text: Text

    @model_validator(mode="before")
    @classmethod
    def _read_other_parts(cls, data: Any, info: ValidationInfo) -> Any:
        """Convert parts that contain text under another name. Raises PydanticCustomError for images and so on."""
        if not is_lenient(info):
            return data
        if isinstance(data, str):
            return {"type": "text", "text": data}
        kind = data.get("type") if isinstance(data, dict) else "text"
        if kind in TEXT_PARTS:
            name = TEXT_PARTS[kind]
            return {**{key: data[key] for key in data if key != name}, "type": "text", "text": data.get(name)}
        if isinstance(kind, str) and kind != "text":
            shown = f"is {kind!r}" if kind.isidentifier() and kind.isascii() else "is not 'text'"
            raise unsupported_error("type", f"{shown[:50]}, and the models read text only; send text parts")
        return data


class FunctionCall(LenientModel):
    """The function that the assistant called, and its arguments as JSON."""

    place: ClassVar[str] = "messages.tool_calls.function."

    name: Text
    arguments: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _encode_arguments(cls, data: Any) -> Any:
        """Accept arguments as an object, too, as Ollama's clients send them."""
        if isinstance(data, dict) and isinstance(data.get("arguments"), dict):
            return data | {"arguments": json.dumps(data["arguments"], ensure_ascii=False)}
        return data


class ToolCall(LenientModel):
    """A call of a tool in an answer of the assistant."""

    place: ClassVar[str] = "messages.tool_calls."

    id: Text | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


def _empty_to_text(content: Any, info: ValidationInfo) -> Any:
    return "" if content == [] and is_lenient(info) else content


Parts = Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)]
Content = Annotated[
    Annotated[Text, Tag(TEXT_TAG)] | Annotated[Parts, Tag(LIST_TAG)],
    Discriminator(text_or_list),
    BeforeValidator(_empty_to_text),
]


class Message(LenientModel):
    """One turn of a chat.

    Only the assistant's content can be absent: it may have called tools instead, or refused. Results of tools have the
    role ``tool``.
    """

    refused_fields: ClassVar[Mapping[str, Unsupported]] = MESSAGE_FIELDS
    place: ClassVar[str] = "messages."

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: Text | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS, fail_fast=True)] | None = None
    function_call: Annotated[FunctionCall | None, Field(description="older form of tool_calls")] = None
    tool_call_id: Text | None = None

    @model_validator(mode="after")
    def _check_consistency(self, info: ValidationInfo) -> Message:
        if self.content is None and self.role in ("system", "developer", "user"):
            raise unsupported_error("content", "is missing; give a text or a list of text parts")
        if self.calls and self.role != "assistant":
            raise unsupported_error(
                "tool_calls", f"belongs to the role 'assistant', not to {self.role!r}; leave it out"
            )
        if self.name is not None and self.role not in ("tool", "function") and is_lenient(info):
            ignore(info, "messages.name")  # templates do not write it
        return self

    @property
    def text(self) -> str:
        """The content as one text. What the assistant said instead of an answer is its content."""
        if self.content is None:
            return self.refusal or ""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    @property
    def calls(self) -> list[ToolCall]:
        """The calls of tools, in either form."""
        older = [ToolCall(function=self.function_call)] if self.function_call else []
        return [*(self.tool_calls or ()), *older]
