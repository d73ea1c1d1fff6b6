"""``POST /tokenize`` and ``POST /detokenize``."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from slm_serve.http.schemas.fields import Strict, Text, TokenId


class TokenizeRequest(Strict):
    """All models share a tokenizer; ``model`` must be one of them all the same."""

    prompt: Text
    model: Text | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeResponse(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Strict):
    model: Text | None = None
    tokens: Annotated[list[TokenId], Field(max_length=1_000_000)]


class DetokenizeResponse(BaseModel):
    prompt: str
