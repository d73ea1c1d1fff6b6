"""Bodies of ``POST /tokenize`` and ``POST /detokenize``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from slm_serve.http.schemas.fields import StrictModel, Text, TokenIds


class TokenizeRequest(StrictModel):
    """A text to tokenize. ``model`` is as in a completion: without it, the default's tokenizer is used."""

    prompt: Text
    model: Text | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


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
