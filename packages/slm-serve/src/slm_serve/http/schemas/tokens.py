"""Bodies of ``POST /tokenize`` and ``POST /detokenize``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from slm_serve.http.schemas.chat import Message
from slm_serve.http.schemas.fields import StrictModel, Text, TokenId


class TokenizeRequest(StrictModel):
    """A text to tokenize, or the messages of a chat, of which the prompt for the next answer is tokenized.

    ``model`` is as in a completion: without it, the default's tokenizer is used.
    """

    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = None
    model: Text | None = None
    add_special_tokens: Annotated[bool, Field(description="for a prompt; the chat template decides for messages")] = (
        True
    )
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _check_input(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        if self.messages is not None and "add_special_tokens" in self.model_fields_set:
            raise ValueError("add_special_tokens has no effect on messages: leave it out")
        return self


class TokenizeResponse(BaseModel):
    """Token ids, their number, and the context length of the model."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(StrictModel):
    """Token ids to decode."""

    model: Text | None = None
    tokens: Annotated[list[TokenId], Field(max_length=1_000_000)]


class DetokenizeResponse(BaseModel):
    """The decoded text."""

    prompt: str
