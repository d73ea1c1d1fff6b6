"""``POST /generate``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from slm_kv import SamplingParams
from slm_serve.http.schemas.fields import (
    MinP,
    NewTokens,
    RepetitionPenalty,
    Seed,
    Stop,
    Strict,
    Temperature,
    Text,
    TopP,
    Whole,
    stops,
)


class GenerateRequest(Strict):
    """A prompt, and how it is continued."""

    prompt: Text
    max_new_tokens: NewTokens = 64
    temperature: Temperature = 1.0
    top_k: Annotated[Whole, Field(ge=0, lt=2**31, description="0 keeps all tokens")] = 0
    top_p: TopP = 1.0
    min_p: MinP = 0.0
    repetition_penalty: RepetitionPenalty = 1.0
    stop: Stop = None
    seed: Seed = None
    stream: bool = False
    use_cache: Annotated[bool, Field(description="false computes the whole text anew for each token")] = True
    adapter: Annotated[Text | None, Field(description="a model of /v1/models; the default one if not given")] = None

    def sampling(self) -> SamplingParams:
        """The same for the engine. Raises KVError."""
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            stop=stops(self.stop),
            seed=self.seed,
        )


class GenerateResponse(BaseModel):
    """The continuation, and what it took. ``tokens_per_second`` counts from the request on, the prompt included."""

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: Literal["stop", "length"]
    seconds: float
    time_to_first_token: float
    tokens_per_second: float


class Refusal(BaseModel):
    """Why there is no answer."""

    detail: str | list[Problem]


class Problem(BaseModel):
    """What is wrong with one field."""

    loc: list[str | int]
    msg: str
    type: str
