"""Bodies of ``POST /v1/responses``: the fields of OpenAI's responses API that concern text and functions.

Items, tools and formats are validated when they are converted to a chat, whose schema has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, model_validator

from slm_serve.http.schemas.base.fields import (
    LIST_TAG,
    TEXT_TAG,
    Logprobs,
    NewTokens,
    Temperature,
    Text,
    TopP,
    text_or_list,
)
from slm_serve.http.schemas.base.lenience import LenientModel, Unsupported, refused
from slm_serve.http.schemas.base.refused_fields import CHAT_FIELDS
from slm_serve.http.schemas.structured_output import OutputFormats

Item = dict[str, Any]
SHARED_FIELDS = (
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "min_tokens",
    "stop_token_ids",
    "chat_template_kwargs",
    "structured_outputs",
)
MAX_ITEMS = 1000
MAX_TOOLS = 128
LOGPROBS = "message.output_text.logprobs"  # in ``include``
_STORED = Unsupported("the server stores no responses, so send all items in input", ())
_OLDER_FORMATS = [name for name in OutputFormats.model_fields if name.startswith("guided_")]
_REFUSED: Mapping[str, Unsupported] = {
    **CHAT_FIELDS,
    "previous_response_id": _STORED,
    "conversation": _STORED,
    "prompt": Unsupported("send its text as instructions", ()),
    "background": refused("the server keeps no responses, so set it to false"),
    "max_tool_calls": Unsupported("the client calls the functions, so leave it out", ()),
    "messages": refused("use input, or /v1/chat/completions"),
    "max_tokens": Unsupported("use max_output_tokens", ()),
    "max_completion_tokens": Unsupported("use max_output_tokens", ()),
    "response_format": refused("use text.format"),
    "n": refused("send several requests", 1),
    "logprobs": refused("use top_logprobs", 0),
    "add_generation_prompt": Unsupported("use /v1/chat/completions", (True,)),
    "continue_final_message": refused("use /v1/chat/completions"),
    **dict.fromkeys(_OLDER_FORMATS, refused("use text.format or structured_outputs")),
}


class TextOptions(LenientModel):
    """``format``: text, json_object or json_schema."""

    place: ClassVar[str] = "text."

    format: Item | None = None


Items = Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]


class ResponsesRequest(LenientModel):
    """A text or the items of a conversation, to which the model adds an answer or function calls."""

    refused_fields: ClassVar[Mapping[str, Unsupported]] = _REFUSED
    ignored_fields: ClassVar[frozenset[str]] = frozenset({"store"})

    model: Text | None = None
    input: Annotated[Annotated[Text, Tag(TEXT_TAG)] | Annotated[Items, Tag(LIST_TAG)], Discriminator(text_or_list)]
    instructions: Text | None = None
    max_output_tokens: NewTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[Logprobs | None, Field(description="adds the log-probabilities of the tokens")] = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: Annotated[list[Item], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    tool_choice: Text | Item | None = None
    parallel_tool_calls: bool | None = None
    include: Annotated[list[Text], Field(max_length=32, fail_fast=True)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[Item | None, Field(description="returned as it is")] = None
    # Fields of chats that change the answer, which the chat validates
    stop: Any = None
    seed: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    top_k: Any = None
    min_p: Any = None
    repetition_penalty: Any = None
    ignore_eos: Any = None
    min_tokens: Any = None
    stop_token_ids: Any = None
    chat_template_kwargs: Any = None
    structured_outputs: Any = None
    store: Annotated[bool | None, Field(description="accepted for compatibility; nothing is stored")] = None

    @model_validator(mode="after")
    def _check_truncation(self) -> ResponsesRequest:
        if self.truncation == "auto":
            raise ValueError("truncation is 'auto'; set it to 'disabled', or start the server with --truncate_prompt")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log-probabilities of the tokens are asked for."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())


class ResponsesUsage(BaseModel):
    """Token counts of a response."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseObject(BaseModel):
    """A response; ``output`` has messages and function calls. It is not stored."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["completed", "incomplete", "in_progress", "failed"]
    error: Item | None
    incomplete_details: Item | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[Item]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: Item
    store: bool
    temperature: float
    text: Item
    tool_choice: str | Item
    tools: list[Item]
    top_p: float
    truncation: Literal["auto", "disabled"]
    usage: ResponsesUsage | None
    metadata: Item
