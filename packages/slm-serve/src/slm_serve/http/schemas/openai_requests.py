"""OpenAI's bodies, with the fields that vLLM adds to them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from slm_kv import SamplingParams
from slm_serve.http.schemas.fields import (
    MOST_CHOICES,
    Logprobs,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    Stop,
    Strict,
    Temperature,
    Text,
    TokenId,
    TopP,
    Whole,
    stops,
)

Ids = Annotated[list[TokenId], Field(min_length=1)]
Prompts = Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_CHOICES)] | Ids
ManyPrompts = Prompts | Annotated[list[Ids], Field(min_length=1, max_length=MOST_CHOICES)]
Limit = Annotated[Whole, Field(ge=1, lt=2**31)]
Ending = Literal["stop", "length"]


class StreamOptions(Strict):
    """``include_usage``: a last event with the counts; ``continuous_usage_stats``: counts in each."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Sampling(Strict):
    """What completions and chats have in common. A null is the same as leaving a field out."""

    model: Text | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    n: Annotated[Whole, Field(ge=1, le=MOST_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop = None
    seed: Seed = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    user: Annotated[Text | None, Field(description="yours, for your logs; changes nothing")] = None
    # vLLM's
    top_k: Annotated[Whole, Field(ge=-1, lt=2**31, description="0 or -1 keeps all tokens")] | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[Whole, Field(ge=0, lt=2**31)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=64)] | None = None
    add_special_tokens: bool | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @model_validator(mode="after")
    def _streams(self) -> Sampling:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true or leave it out")
        return self

    def sampling(self, max_new_tokens: int, logprobs: int | None, prompt_logprobs: int | None, **own: Any) -> Any:
        """The same for the engine. Raises KVError."""
        given: dict[str, Any] = {
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
            stop=stops(self.stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            **{name: number for name, number in given.items() if number is not None},
            **own,
        )


class CompletionRequest(Sampling):
    """``POST /v1/completions``."""

    prompt: ManyPrompts
    max_tokens: Annotated[Whole, Field(ge=0, lt=2**31, description="16 if not given; 0 with echo alone")] | None = None
    logprobs: Logprobs | None = None
    echo: bool | None = None

    @model_validator(mode="after")
    def _asks_for_something(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0 and echo is not set: there would be nothing to answer")
        if len(self.texts) * self.choices > MOST_CHOICES:
            raise ValueError(f"asks for more than {MOST_CHOICES} texts, prompts times n: send several requests")
        return self

    @property
    def texts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        given: Any = self.prompt
        if isinstance(given, str) or not isinstance(given[0], str | list):
            return [given]
        return list(given)


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class Message(Strict):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]
    name: Text | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampling):
    """``POST /v1/chat/completions``. Without a limit the answer may fill the model's context."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Limit | None = None
    max_tokens: Annotated[Limit | None, Field(description="the older name of max_completion_tokens")] = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None

    @model_validator(mode="after")
    def _agrees(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is for logprobs: set logprobs to true or leave it out")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class Usage(BaseModel):
    """Tokens in and out."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(BaseModel):
    """A place for each token; null where there is nothing to predict it from."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Ending | None = None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    """``bytes`` is null for a token that is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: Ending


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(BaseModel):
    """``weights``: what computes, such as ``unmerged``; ``default``: what answers where no model is named."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "slm"
    max_model_len: int
    kind: Literal["base", "adapter"]
    parent: str | None
    weights: str
    default: bool


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """The body of every refusal under /v1."""

    error: ErrorBody
