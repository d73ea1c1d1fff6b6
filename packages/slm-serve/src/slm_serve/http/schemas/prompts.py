"""Fields with one or several texts or lists of token ids."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from slm_serve.http.schemas.fields import MAX_CHOICES, Text, TokenIds

MAX_INPUTS = 2048  # of embeddings: OpenAI's limit

PromptIds = Annotated[TokenIds, Field(min_length=1)]
_FewTexts = Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
_FewIds = Annotated[list[PromptIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
_ManyTexts = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
_ManyIds = Annotated[list[PromptIds], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]


def _tag(value: Any) -> str:
    """Return the tag of what is given, by the first item of a list."""
    if not isinstance(value, list):
        return "<text>"
    if not value or isinstance(value[0], str):
        return "<texts>"
    return "<lists of ids>" if isinstance(value[0], list) else "<ids>"


Prompts = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[_FewTexts, Tag("<texts>")]
    | Annotated[PromptIds, Tag("<ids>")]
    | Annotated[_FewIds, Tag("<lists of ids>")],
    Discriminator(_tag),
]
Inputs = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[_ManyTexts, Tag("<texts>")]
    | Annotated[PromptIds, Tag("<ids>")]
    | Annotated[_ManyIds, Tag("<lists of ids>")],
    Discriminator(_tag),
]


def as_list(given: Any) -> list[str | list[int]]:
    """Return the value of such a field as a list, each a text or token ids."""
    is_one = isinstance(given, str) or not isinstance(given[0], str | list)
    return [given] if is_one else list(given)
