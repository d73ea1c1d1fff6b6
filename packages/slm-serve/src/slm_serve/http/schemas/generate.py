"""Bodies of ``POST /generate``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from slm_kv import SamplingParams
from slm_serve.http.schemas.base.fields import (
    INT32_LIMIT,
    Integer,
    MinP,
    NewTokens,
    RepetitionPenalty,
    Seed,
    Stop,
    StrictModel,
    Temperature,
    Text,
    TopP,
    stop_strings,
)


class GenerateRequest(StrictModel):
    """A prompt and how to continue it."""

    prompt: Text
    max_new_tokens: NewTokens = 64
    temperature: Temperature = 1.0
    top_k: Annotated[Integer, Field(ge=0, lt=INT32_LIMIT, description="0 keeps all tokens")] = 0
    top_p: TopP = 1.0
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = None
    seed: Seed = None
    stream: bool = False
    use_cache: Annotated[bool, Field(description="false recomputes the whole text for each token")] = True
    adapter: Annotated[Text | None, Field(description="a model listed by /v1/models (default: its first)")] = None

    def sampling_params(self) -> SamplingParams:
        """Return the parameters for the backend. Raises KVError."""
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop=stop_strings(self.stop),
            seed=self.seed,
        )


class GenerateResponse(BaseModel):
    """The continuation and its timing. ``tokens_per_second`` includes the time for the prompt."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]
    seconds: float
    time_to_first_token: float
    tokens_per_second: float
