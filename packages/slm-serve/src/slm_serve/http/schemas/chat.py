"""Bodies of ``POST /v1/chat/completions``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from slm_serve.http.schemas.fields import Logprobs, NewTokens, StrictModel, Text
from slm_serve.http.schemas.openai_requests import OpenAIRequest, Usage


class TextPart(StrictModel):
    """A part of the content of a message."""

    type: Literal["text"]
    text: Text


class Message(StrictModel):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    name: Text | None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(OpenAIRequest):
    """The messages of a chat. Without a token limit the answer may fill the model's context."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: NewTokens | None = None
    max_tokens: Annotated[NewTokens | None, Field(description="older name of max_completion_tokens")] = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: set logprobs to true or leave top_logprobs out")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give only one of them")
        return self

    @property
    def token_limit(self) -> int | None:
        """The requested number of new tokens, under either name."""
        return self.max_completion_tokens or self.max_tokens


class TopLogprob(BaseModel):
    """The log-probability of a token. ``bytes`` is null for a token that is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """The log-probability of a generated token, and those of its most likely alternatives."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Log-probabilities of all tokens of an answer."""

    content: list[TokenLogprob]


class AssistantMessage(BaseModel):
    """The generated answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One generated answer with its metadata."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """All generated answers of a request."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
