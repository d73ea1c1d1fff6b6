"""Error bodies: FastAPI's format, and OpenAI's."""

from __future__ import annotations

from pydantic import BaseModel


class FieldError(BaseModel):
    """An invalid field of a request: its location, what is wrong, and pydantic's error type."""

    loc: list[str | int]
    msg: str
    type: str


class ErrorResponse(BaseModel):
    """An error as one sentence, or as a list of invalid fields."""

    detail: str | list[FieldError]


class OpenAIError(BaseModel):
    """OpenAI's description of an error; ``param`` is the invalid parameter."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorResponse(BaseModel):
    """The body of every error under /v1."""

    error: OpenAIError
