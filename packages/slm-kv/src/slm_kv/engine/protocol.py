"""What the engines have in common, so that servers and command lines work with any of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.engine.adapters import Adapters
from slm_kv.engine.requests import Handle, Update
from slm_kv.engine.vocabulary import Prompt
from slm_kv.linear.int8_gate import Int8Model
from slm_kv.sampling.params import SamplingParams

EngineKind = Literal["paged", "transformers"]


@dataclass(frozen=True)
class EngineLoad:
    """How busy an engine is.

    Attributes:
        running: Requests that are computed in each step.
        waiting: Requests that wait for others to end.
        pages_used: Pages in use; 0 for an engine without pages.
        pages: Pages of the pool; 0 for an engine without pages.
        preemptions: How often a sequence lost its pages to another one and had to be computed again.
    """

    running: int
    waiting: int
    pages_used: int = 0
    pages: int = 0
    preemptions: int = 0


class TokenLimits(Protocol):
    """How many tokens a request can have."""

    @property
    def tokens(self) -> int:
        """The largest number of tokens in a prompt and its answer, unless a window drops some."""

    @property
    def positions(self) -> int:
        """The number of positions that the model knows."""


class TextEngine(Protocol):
    """Generates for many requests at the same time. Not thread-safe, except for ``check``.

    Implemented by ``Engine`` and ``TransformersEngine``; ``create_engine`` chooses.
    """

    @property
    def kind(self) -> EngineKind:
        """Which engine it is."""

    @property
    def reason(self) -> str | None:
        """Why the model is not served from pages, in one sentence; None if it is, or if pages were not tried."""

    @property
    def models(self) -> list[PreTrainedModel]:
        """All models; the first one also serves the base."""

    @property
    def model(self) -> PreTrainedModel:
        """The first model."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The tokenizer of prompts and answers."""

    @property
    def adapters(self) -> Adapters:
        """The adapters by name."""

    @property
    def context_limits(self) -> TokenLimits:
        """How many tokens a request can have."""

    @property
    def max_sequences(self) -> int:
        """How many requests run at the same time."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the keys and values, or of the model's activations."""

    @property
    def device(self) -> torch.device:
        """The device on which the model runs."""

    @property
    def int8(self) -> Int8Model | None:
        """The model in 8 bits; None for plain weights."""

    @property
    def summary(self) -> str:
        """A few lines on the engine and the model."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute or an update to return."""

    def load(self) -> EngineLoad:
        """Return how busy the engine is."""

    def check(self, prompt_ids: Ids[int], params: SamplingParams, *, adapter: str | None = None) -> None:
        """Validate a request without queuing it; thread-safe. Raises KVError where ``submit`` would."""

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        use_cache: bool = True,
    ) -> Handle:
        """Queue a request. Raises KVError if it can never be answered."""

    def cancel(self, handle: Handle) -> bool:
        """End a request at once with finish_reason ``cancelled``; return False if it had already ended."""

    def finish(self, handle: Handle) -> bool:
        """End a request at once with finish_reason ``length`` and keep its text; False if it had already ended."""

    def step(self) -> list[Update]:
        """Compute the next token of the running requests."""

    def stream(self, handle: Handle) -> Iterator[Update]:
        """Step until ``handle`` is finished, and yield its updates."""

    def generate(self, prompts: Iterable[Prompt], params: SamplingParams | None = None) -> list[Handle]:
        """Answer all ``prompts`` and return their handles in the same order."""

    def close(self) -> None:
        """Cancel all requests and restore the models."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
