"""What all engines have in common, so that servers and command lines work with any of them."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.constraints.compiler import GrammarCompiler
from slm_kv.constraints.grammar import Grammar
from slm_kv.engine.adapter_host import AdapterHost
from slm_kv.engine.embeddings import NO_TEXT, EmbeddingSequence
from slm_kv.engine.requests import FinishReason, Handle, Update
from slm_kv.engine.scoring import ScoringSequence
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.text_stream import TextStream
from slm_kv.engine.vocabulary import Prompt, Vocabulary
from slm_kv.errors import KVError
from slm_kv.linear.quantisation_gate import QuantisedModel
from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.sampler import TokenSampler

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
        drafted_tokens: Tokens that speculation has drafted.
        accepted_tokens: Those of them that were sampled.
    """

    running: int
    waiting: int
    pages_used: int = 0
    pages: int = 0
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class TokenLimits(Protocol):
    """How many tokens a request can have."""

    @property
    def tokens(self) -> int:
        """The largest number of tokens in a prompt and its answer, unless a window drops some."""

    @property
    def positions(self) -> int:
        """The number of positions that the model knows."""

    def check(self, prompt_tokens: int, new_tokens: int) -> None:
        """Raise KVError for a request that can never be answered."""


class TextEngine(AdapterHost):
    """Generates for many requests at the same time. Not thread-safe, except for ``check`` and ``compile_grammar``.

    Subclasses are ``Engine`` and ``TransformersEngine``; ``create_engine`` chooses.

    Attributes:
        kind: Which engine it is.
        reason: Why the model is not served from pages, in one sentence; None if it is, or if pages were not tried.
        models: All models; the first one also serves the base.
        model: The first model.
        tokenizer: That of prompts and answers.
        adapters: The adapters by name.
        context_limits: How many tokens a request can have.
        max_sequences: How many requests run at the same time.
    """

    kind: EngineKind
    reason: str | None
    context_limits: TokenLimits
    max_sequences: int

    def __init__(
        self, model: PreTrainedModel | Ids[PreTrainedModel], tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        super().__init__([model] if isinstance(model, nn.Module) else list(model), tokenizer)
        self.model = self.models[0]
        self._vocabulary = Vocabulary(self.model, tokenizer)
        self._grammars = GrammarCompiler(tokenizer, self._vocabulary.size)
        self._next_id = itertools.count()
        self._updates: list[Update] = []

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the keys and values, or of the model's activations."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device on which the model runs."""

    @property
    @abstractmethod
    def quantised(self) -> QuantisedModel | None:
        """The quantised model and the measured rise of its perplexity; None for plain weights."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """A few lines on the engine and the model."""

    @property
    @abstractmethod
    def busy(self) -> bool:
        """Whether there is anything to compute or an update to return."""

    @abstractmethod
    def load(self) -> EngineLoad:
        """Return how busy the engine is."""

    @abstractmethod
    def step(self) -> list[Update]:
        """Compute the next token of each running request."""

    @abstractmethod
    def close(self, *, restore: bool = True) -> None:
        """Cancel all requests, and restore the models unless the process ends: that makes a copy of the weights."""

    @abstractmethod
    def _queue(self, sequence: Sequence) -> None:
        """Queue a validated request."""

    @abstractmethod
    def _end(self, handle: Handle, reason: FinishReason) -> bool:
        """End a request at once; return False if it had already ended."""

    def check(self, prompt_ids: Ids[int], params: SamplingParams, *, adapter: str | None = None) -> None:
        """Validate a request without queuing it; thread-safe.

        A grammar that was not compiled before is compiled here, see ``compile_grammar``.

        Raises:
            KVError: ``submit`` would refuse the request.
        """
        self._vocabulary.encode(prompt_ids)
        self.context_limits.check(len(prompt_ids), params.max_new_tokens)
        self.adapters.resolve(adapter)
        for token, _ in params.logit_bias:
            if not 0 <= token < self._vocabulary.size:
                raise KVError(f"token id {token} in logit_bias is outside the vocabulary of {self._vocabulary.size}")
        if params.grammar:
            self._grammars.compile(params.grammar)

    def prepare_grammars(self) -> None:
        """Build the table of tokens that grammars need, which takes a second and holds the interpreter's lock.

        Without this call the first grammar builds it. Does nothing if no grammar is possible, with this tokenizer or
        without llguidance: a request with a grammar says why.
        """
        self._grammars.prepare()

    def compile_grammar(self, grammar: Grammar) -> None:
        """Compile a grammar that requests will use; thread-safe.

        It takes milliseconds; the first one also builds the table of tokens. The latest ones are kept.

        Raises:
            GrammarError: the grammar is invalid, empty or not supported, or the tokenizer is not.
        """
        self._grammars.compile(grammar)

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        use_cache: bool = True,
    ) -> Handle:
        """Queue a request.

        Args:
            prompt: Text or token ids.
            params: How to continue it.
            adapter: An adapter by name; None is the one that was active when the engine was created, ``__base__``
                the model without adapters.
            use_cache: False recomputes the whole text for each token, which is slow: nothing is reused from one token
                to the next.

        Raises:
            KVError: the request can never be answered: its prompt is empty or too long, or the adapter is unknown.
        """
        params = params or SamplingParams()
        prompt_ids = self._vocabulary.encode(prompt)
        self.check(prompt_ids, params, adapter=adapter)
        name = self.adapters.resolve(adapter)
        model_end_ids = self._end_ids.get(name, self._vocabulary.end_ids)
        handle = Handle(next(self._next_id), tuple(prompt_ids), params, name, use_cache)
        end_ids = model_end_ids.union(params.stop_token_ids)
        constraint = self._grammars.start(params.grammar, params.stop_token_ids, model_end_ids, params.ignore_eos)
        sampler = TokenSampler(params, prompt_ids, self._vocabulary.size, end_ids, constraint)
        stream = TextStream(self.tokenizer, params.stop, prompt_ids, params.visible_special_ids)
        self._queue(Sequence(handle, sampler, stream, self.adapters.prefix_root(name), model_end_ids))
        return handle

    def check_embedding(self, prompt_ids: Ids[int], *, adapter: str | None = None) -> None:
        """Validate a request for an embedding without queuing it; thread-safe. Raises KVError, as ``check``."""
        self.check(prompt_ids, NO_TEXT, adapter=adapter)

    def submit_embedding(self, prompt: Prompt, *, adapter: str | None = None) -> Handle:
        """Queue a request for the embedding of a text, computed beside the texts that are generated.

        Args:
            prompt: Text or token ids.
            adapter: As in ``submit``.

        Raises:
            KVError: the prompt is empty or too long, or the adapter is unknown.
        """
        prompt_ids = self._vocabulary.encode(prompt)
        self.check_embedding(prompt_ids, adapter=adapter)
        name = self.adapters.resolve(adapter)
        handle = Handle(next(self._next_id), tuple(prompt_ids), NO_TEXT, name)
        self._queue(EmbeddingSequence(handle, self.adapters.prefix_root(name)))
        return handle

    def embed(self, prompt: Prompt, *, adapter: str | None = None) -> Tensor:
        """Return the embedding of a text: the mean of its last hidden states, of length 1, [D] in float32.

        Raises:
            KVError: as ``submit_embedding``; InvalidLogits if the model gives NaN.
        """
        handle = self.submit_embedding(prompt, adapter=adapter)
        while not handle.finished:
            others = [update for update in self.step() if update.handle is not handle]
            self._updates += others  # of texts that run meanwhile: the next step returns them
        if handle.exception:
            raise handle.exception
        assert handle.embedding is not None
        return handle.embedding

    def submit_scoring(self, context: Prompt, continuation: Ids[int], *, adapter: str | None = None) -> Handle:
        """Queue a request for the log-probabilities of the tokens of ``continuation`` after ``context``.

        ``handle.scores`` has them when the request has ended. Pages of the context are shared, as those of a prompt.

        Raises:
            KVError: the context or the continuation is empty, both are too long, or the adapter is unknown.
        """
        if not len(continuation):
            raise KVError("the continuation is empty: give at least one token")
        context_ids, continuation_ids = self._vocabulary.encode(context), self._vocabulary.encode(continuation)
        self.check([*context_ids, *continuation_ids[:-1]], NO_TEXT, adapter=adapter)
        name = self.adapters.resolve(adapter)
        handle = Handle(next(self._next_id), tuple(context_ids), NO_TEXT, name)
        self._queue(ScoringSequence(handle, continuation_ids, self.adapters.prefix_root(name)))
        return handle

    def cancel(self, handle: Handle) -> bool:
        """End a request and release its memory at once; return False if it had already ended."""
        return self._end(handle, "cancelled")

    def finish(self, handle: Handle) -> bool:
        """End a request at once with finish_reason ``length`` and its text so far; False if it had already ended."""
        return self._end(handle, "length")

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
