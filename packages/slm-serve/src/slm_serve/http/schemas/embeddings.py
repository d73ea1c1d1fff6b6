"""Bodies of ``POST /v1/embeddings``: OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from slm_serve.http.schemas.base.fields import INT32_LIMIT, Integer, PromptIds, Text, prompt_tag
from slm_serve.http.schemas.base.lenience import LenientModel, Unsupported
from slm_serve.http.schemas.base.refused_fields import EMBEDDING_FIELDS

MAX_INPUTS = 2048  # OpenAI's limit
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
ManyIds = Annotated[list[PromptIds], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)]
Inputs = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Texts, Tag("<texts>")]
    | Annotated[PromptIds, Tag("<ids>")]
    | Annotated[ManyIds, Tag("<many ids>")],
    Discriminator(prompt_tag),
]


class EmbeddingRequest(LenientModel):
    """One or several inputs, as texts or token ids."""

    refused_fields: ClassVar[Mapping[str, Unsupported]] = EMBEDDING_FIELDS
    ignored_fields: ClassVar[frozenset[str]] = frozenset({"user"})

    input: Inputs
    model: Text | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[
        Integer | None, Field(ge=1, lt=INT32_LIMIT, description="only the length of the model's hidden states")
    ] = None
    add_special_tokens: Annotated[bool | None, Field(description="vLLM's; default: true")] = None
    user: Annotated[Text | None, Field(description="accepted for compatibility; has no effect")] = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """The inputs as a list, each a text or token ids."""
        given: Any = self.input
        if isinstance(given, str) or not isinstance(given[0], str | list):
            return [given]
        return list(given)


class Embedding(BaseModel):
    """The embedding of one input: numbers, or little-endian 32-bit floats encoded in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Token counts of a request."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The embeddings of all inputs, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
