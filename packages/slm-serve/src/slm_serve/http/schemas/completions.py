"""Bodies of ``POST /v1/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from slm_serve.http.schemas.base.fields import INT32_LIMIT, MAX_CHOICES, Integer, Logprobs, PromptIds, Text, prompt_tag
from slm_serve.http.schemas.base.lenience import Unsupported, is_lenient
from slm_serve.http.schemas.base.refused_fields import COMPLETION_FIELDS
from slm_serve.http.schemas.openai_requests import NoLimit, OpenAIRequest, Usage

Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
ManyIds = Annotated[list[PromptIds], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]


Prompt = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Texts, Tag("<texts>")]
    | Annotated[PromptIds, Tag("<ids>")]
    | Annotated[ManyIds, Tag("<many ids>")],
    Discriminator(prompt_tag),
]


def _no_false(value: Any, info: ValidationInfo) -> Any:
    return None if value is False and is_lenient(info) else value


class CompletionRequest(OpenAIRequest):
    """One or several prompts, as texts or token ids."""

    refused_fields: ClassVar[Mapping[str, Unsupported]] = COMPLETION_FIELDS

    prompt: Prompt
    max_tokens: Annotated[
        Annotated[Integer, Field(ge=0, lt=INT32_LIMIT, description="default: 16; 0 is possible only with echo")] | None,
        NoLimit,
    ] = None
    logprobs: Annotated[Logprobs | None, BeforeValidator(_no_false)] = None
    echo: bool | None = None
    add_special_tokens: bool | None = None  # vLLM's

    @model_validator(mode="after")
    def _check_amount(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0 and echo is not set, so there is nothing to return; set one of them")
        if len(self.prompts) * self.choices > MAX_CHOICES:
            raise ValueError(f"more than {MAX_CHOICES} texts, prompts times n; send several requests")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list, each a text or token ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or not isinstance(prompt[0], str | list):
            return [prompt]
        return list(prompt)


class CompletionLogprobs(BaseModel):
    """One item for each token; null for the first token of a prompt, which has no log-probability."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    """One generated text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Completion(BaseModel):
    """All generated texts of a request."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
