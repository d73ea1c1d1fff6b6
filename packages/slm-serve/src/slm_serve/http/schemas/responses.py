"""Bodies of ``POST /v1/responses``: the fields of OpenAI's responses API that concern text and functions.

Items, tools and formats are checked when they are converted to a chat, whose schema is stricter.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from slm_serve.http.schemas.fields import (
    Logprobs,
    NewTokens,
    StrictModel,
    Temperature,
    Text,
    TopP,
)

Item = dict[str, Any]
MAX_ITEMS = 1000
LOGPROBS = "message.output_text.logprobs"  # in ``include``
NEEDS_STORAGE = ("previous_response_id", "conversation", "prompt")


class TextOptions(StrictModel):
    """``format``: text, json_object or json_schema."""

    format: Item | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class ResponsesRequest(StrictModel):
    """A text or the items of a conversation, to which the model adds an answer or function calls."""

    model: Text | None = None
    input: Text | Annotated[list[Item], Field(min_length=1, max_length=MAX_ITEMS)]
    instructions: Text | None = None
    max_output_tokens: NewTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_logprobs: Annotated[Logprobs | None, Field(description="with logprobs in include")] = None
    stream: bool | None = None
    text: TextOptions | None = None
    tools: list[Item] | None = None
    tool_choice: Text | Item | None = None
    parallel_tool_calls: bool | None = None
    include: list[Text] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Annotated[dict[str, Any] | None, Field(description="returned as it is")] = None
    background: bool | None = None
    previous_response_id: Any = None
    conversation: Any = None
    prompt: Any = None

    @model_validator(mode="after")
    def _check_stateless(self) -> ResponsesRequest:
        for name in NEEDS_STORAGE:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} refers to a stored object, but nothing is stored; send all items in input")
        if self.background:
            raise ValueError("background is true, and this server keeps no responses; set it to false")
        return self

    @property
    def wants_logprobs(self) -> bool:
        """Whether the log-probabilities of the tokens are asked for."""
        return self.top_logprobs is not None or LOGPROBS in (self.include or ())


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
