"""Bodies of ``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationInfo, model_validator

from slm_serve.http.schemas.base.fields import Logprobs, NewTokens
from slm_serve.http.schemas.base.lenience import Unsupported, is_lenient
from slm_serve.http.schemas.base.refused_fields import CHAT_FIELDS
from slm_serve.http.schemas.messages import Message
from slm_serve.http.schemas.openai_requests import NoLimit, OpenAIRequest, Usage
from slm_serve.http.schemas.tools import AnswerCall, ToolFields


class ChatRequest(OpenAIRequest, ToolFields):
    """The messages of a chat. Without a token limit the answer may fill the model's context."""

    refused_fields: ClassVar[Mapping[str, Unsupported]] = CHAT_FIELDS

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)]
    max_completion_tokens: Annotated[NewTokens | None, NoLimit] = None
    max_tokens: Annotated[NewTokens | None, NoLimit, Field(description="older name of max_completion_tokens")] = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    # Fields of vLLM
    add_generation_prompt: bool | None = None
    continue_final_message: Annotated[bool | None, Field(description="continue the assistant's last message")] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, Field(max_length=32, description="variables of the template, such as enable_thinking")
    ] = None

    @model_validator(mode="after")
    def _check_consistency(self, info: ValidationInfo) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs and (self.top_logprobs or not is_lenient(info)):
            raise ValueError("top_logprobs needs logprobs; set logprobs to true or leave top_logprobs out")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give only one of them")
        if self.continue_final_message:
            self._check_final_message()
        return self

    def _check_final_message(self) -> None:
        last = self.messages[-1]
        if last.role != "assistant" or last.calls or not last.text:
            raise ValueError("continue_final_message needs a last message of the assistant with text; add one")
        if self.add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt exclude each other; give only one")

    @property
    def token_limit(self) -> int | None:
        """The requested number of new tokens, under either name."""
        return self.max_completion_tokens or self.max_tokens


class TopLogprob(BaseModel):
    """The log-probability of a token.

    ``bytes`` are what it adds to the text: a part of a character for some tokens, nothing for special tokens.
    """

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The log-probability of a generated token, and those of its most likely alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of all tokens of an answer."""

    content: list[TokenLogprob]


class AssistantMessage(BaseModel):
    """The generated answer: a text, calls of tools, or both."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    tool_calls: list[AnswerCall] | None = None


class ChatChoice(BaseModel):
    """One generated answer with its metadata."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    """All generated answers of a request."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
