"""Fields that OpenAI's completion and chat requests share, with the fields that vLLM adds to them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, model_validator

from slm_kv import SamplingParams
from slm_serve.http.schemas.base.fields import (
    INT32_LIMIT,
    MAX_CHOICES,
    Integer,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    Text,
    TokenIds,
    TopP,
    stop_strings,
)
from slm_serve.http.schemas.base.lenience import LenientModel, is_lenient
from slm_serve.http.schemas.structured_output import OutputFormats


def _no_empty_stops(value: Any, info: ValidationInfo) -> Any:
    """Leave out empty stop strings, with which clients ask for none."""
    if not is_lenient(info):
        return value
    return [text for text in value if text != ""] if isinstance(value, list) else value or None


def _no_negative_limit(value: Any, info: ValidationInfo) -> Any:
    """Convert -1 to None, with which clients ask for no limit."""
    return None if is_lenient(info) and value == -1 else value


MAX_BIASES = 1024
StopOrNothing = Annotated[Stop, BeforeValidator(_no_empty_stops)]
NoLimit = BeforeValidator(_no_negative_limit)  # marks a number of tokens of which -1 is no limit


class StreamOptions(LenientModel):
    """``include_usage``: token counts in a last event; ``continuous_usage_stats``: in each event."""

    place: ClassVar[str] = "stream_options."

    include_usage: bool = False
    continuous_usage_stats: bool = False


TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
LogitBias = Annotated[dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASES)]


class OpenAIRequest(OutputFormats):
    """Common fields of completion and chat requests. Null has the same meaning as leaving a field out."""

    ignored_fields: ClassVar[frozenset[str]] = frozenset({"user"})

    model: Text | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Annotated[Integer, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopOrNothing = None
    seed: Seed = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[LogitBias | None, Field(description="by token id; -100 bans a token, 100 forces it")] = None
    user: Annotated[Text | None, Field(description="accepted for compatibility; has no effect")] = None
    # Fields of vLLM
    top_k: Annotated[Integer, Field(ge=-1, lt=INT32_LIMIT, description="0 or -1 keeps all tokens")] | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[Integer, Field(ge=0, lt=INT32_LIMIT)] | None = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=64)] | None = None

    @property
    def choices(self) -> int:
        """Number of texts for each prompt."""
        return self.n or 1

    @model_validator(mode="after")
    def _check_stream_options(self, info: ValidationInfo) -> OpenAIRequest:
        if self.stream_options is not None and not self.stream and not is_lenient(info):
            raise ValueError("stream_options needs stream: set stream to true or leave stream_options out")
        return self

    def sampling_params(
        self, max_new_tokens: int, logprobs: int | None, prompt_logprobs: int | None, **overrides: Any
    ) -> SamplingParams:
        """Return the parameters for the backend. Raises KVError."""
        optional: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "ignore_eos": self.ignore_eos,
            "min_new_tokens": self.min_tokens,
        }
        return SamplingParams(
            max_new_tokens=max_new_tokens,
            top_k=max(self.top_k or 0, 0),
            stop=stop_strings(self.stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            **{name: value for name, value in optional.items() if value is not None},
            **overrides,
        )


class Usage(BaseModel):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
