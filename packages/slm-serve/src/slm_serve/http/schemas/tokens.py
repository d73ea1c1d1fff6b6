"""Bodies of ``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from slm_serve.http.schemas.base.fields import StrictModel, Text, TokenIds
from slm_serve.http.schemas.messages import Message


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
    tokens: Annotated[TokenIds, Field(max_length=250_000)]


class DetokenizeResponse(BaseModel):
    """The decoded text."""

    prompt: str


class TokenizerInfo(BaseModel):
    """A tokenizer: vLLM's response, from which lm-evaluation-harness builds its remote tokenizer.

    ``chat_template`` is null if the tokenizer has none, or several by name.
    """

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token: str | None
    eos_token: str | None
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None
