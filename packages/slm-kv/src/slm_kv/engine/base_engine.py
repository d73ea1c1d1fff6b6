"""What the engines do alike: validating requests, streaming one of them, and answering a list of prompts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Ids
from types import TracebackType
from typing import Protocol, Self

from slm_kv.engine.adapters import Adapters
from slm_kv.engine.requests import Handle, Update
from slm_kv.engine.vocabulary import Prompt, Vocabulary
from slm_kv.sampling.params import SamplingParams


class _RequestLimits(Protocol):
    def check(self, prompt_tokens: int, new_tokens: int) -> None: ...


class BaseEngine(ABC):
    """An engine whose ``step`` advances all requests. Subclasses set ``adapters`` and ``_vocabulary``."""

    adapters: Adapters
    _vocabulary: Vocabulary

    @property
    @abstractmethod
    def _request_limits(self) -> _RequestLimits:
        """How many tokens a request can have."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether there is anything to compute or an update to return."""

    @abstractmethod
    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        use_cache: bool = True,
    ) -> Handle:
        """Queue a request."""

    @abstractmethod
    def step(self) -> list[Update]:
        """Compute the next token of each running request."""

    @abstractmethod
    def close(self) -> None:
        """Cancel all requests and restore the models."""

    def check(self, prompt_ids: Ids[int], params: SamplingParams, *, adapter: str | None = None) -> None:
        """Validate a request without queuing it; thread-safe.

        Raises:
            KVError: ``submit`` would refuse the request.
        """
        self._vocabulary.encode(prompt_ids)
        self._request_limits.check(len(prompt_ids), params.max_new_tokens)
        self.adapters.resolve(adapter)

    def stream(self, handle: Handle) -> Iterator[Update]:
        """Step until ``handle`` is finished, and yield its updates."""
        while self.busy:
            yield from (update for update in self.step() if update.handle is handle)
            if handle.finished:
                return

    def generate(self, prompts: Iterable[Prompt], params: SamplingParams | None = None) -> list[Handle]:
        """Answer all ``prompts`` and return their handles in the same order."""
        handles = [self.submit(prompt, params) for prompt in prompts]
        while self.busy:
            self.step()
        return handles

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
