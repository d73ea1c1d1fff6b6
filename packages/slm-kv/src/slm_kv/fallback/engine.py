"""The engine for models that cannot use pages: each step computes the next token of every running request."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Ids
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.engine.base_copy import BaseCopy
from slm_kv.engine.context_limits import OnFull
from slm_kv.engine.embeddings import EmbeddingSequence, last_hidden_states
from slm_kv.engine.requests import FinishReason, Handle, Update
from slm_kv.engine.scoring import ScoringSequence
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.text_engine import EngineLoad, TextEngine
from slm_kv.errors import KVError, require_at_least
from slm_kv.fallback.generation import TokenSteps, start
from slm_kv.fallback.limits import GenerationLimits
from slm_kv.fallback.verification import find_cache_fault
from slm_kv.linear.packed_embedding import embedding_weight
from slm_kv.linear.plain_copy import RebuiltWeights, plain_copy
from slm_kv.peft_models import base_model


class TransformersEngine(TextEngine):
    """Generates for many requests through transformers' own generation, with the interface of ``Engine``.

    It serves any causal language model of transformers, whatever it keeps of the text: keys and values, recurrent
    states, or both. Requests are computed in turn, not in a batch, and prompts in one piece. Sampling is that of
    ``Engine``; the model's generation config counts for the end-of-text tokens only.

    The models must not be used elsewhere until ``close``. An error in a request ends that request only. Not
    thread-safe, except for ``check``.

    Args:
        model: One model, or several that share a base and have adapters of different methods. The first also serves
            the base.
        tokenizer: For prompts and answers as text; without it only token ids are possible.
        max_sequences: Requests that run at the same time, each with a cache of its own; others wait.
        max_tokens: The largest number of tokens of a request, prompt and answer. It bounds the memory of the caches.
        on_full: What happens if a prompt and its ``max_new_tokens`` exceed ``max_tokens`` or the model's positions:
            ``refuse`` the request on submission; ``stop`` at the limit with finish_reason ``length``; or end there
            with an ``error``.
        reason: Why pages are not used, for ``summary``.

    Attributes:
        cache_fault: What is wrong with the model's cache, if a short text showed that it fails or changes the logits:
            then the whole text is computed for each token.

    Raises:
        KVError: a size is invalid, or the model is not a causal language model.
    """

    kind: Literal["transformers"] = "transformers"
    quantised: None = None
    context_limits: GenerationLimits

    def __init__(
        self,
        model: PreTrainedModel | Ids[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        max_sequences: int = 4,
        max_tokens: int = 4096,
        on_full: OnFull = "refuse",
        reason: str | None = None,
    ) -> None:
        require_at_least(1, max_sequences=max_sequences, max_tokens=max_tokens)
        super().__init__(model, tokenizer)
        self.max_sequences, self.reason = max_sequences, reason
        self._base: Any = base_model(self.model)
        self.context_limits = GenerationLimits.from_config(self._base.config, max_tokens, on_full)
        for each in self.models:
            each.eval()
        self.cache_fault = find_cache_fault(self._base, self._vocabulary.size)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[Sequence, TokenSteps | None] = {}  # None before the first step

    def load(self) -> EngineLoad:
        """Return how busy the engine is."""
        return EngineLoad(len(self._running), len(self._waiting))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embeddings, and so of the activations."""
        dtype: torch.dtype = embedding_weight(self._base).dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """The device of the embeddings."""
        device: torch.device = embedding_weight(self._base).device
        return device

    @property
    def summary(self) -> str:
        """The engine and the model in two or three lines."""
        adapter = f"adapter {self.adapters.default}" if self.adapters.default else "no adapter"
        dtype, plural = str(self.dtype).removeprefix("torch."), "" if self.max_sequences == 1 else "s"
        lines = [
            f"engine: transformers' own generation, at most {self.max_sequences} request{plural} in turn and "
            f"{self.context_limits.tokens:,} tokens each",
            f"model: {type(self._base).__name__} on {self.device.type} ({dtype}), {adapter}",
        ]
        if self.reason:
            lines.insert(1, f"no pages: {self.reason}")
        if self.cache_fault:
            lines.insert(1, f"no cache: {self.cache_fault}; the whole text is computed for each token")
        return "\n".join(lines)

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute or an update to return."""
        return bool(self._running or self._waiting or self._updates)

    def step(self) -> list[Update]:
        """Compute one token for each running request; the first step of a request computes its prompt."""
        while self._waiting and len(self._running) < self.max_sequences:
            self._running[self._waiting.popleft()] = None
        for sequence in list(self._running):
            try:
                self._advance(sequence)
            except Exception as error:  # ends this request only
                sequence.handle.error, sequence.handle.exception = str(error) or type(error).__name__, error
                self._finish(sequence, "error")
        updates, self._updates = self._updates, []
        return updates

    def close(self, *, restore: bool = True) -> None:
        for sequence in [*self._running, *self._waiting]:
            self._finish(sequence, "cancelled")

    def copy_base(self) -> BaseCopy:
        plain, _ = plain_copy(self._base, None, RebuiltWeights())
        return BaseCopy(plain, self.adapters, self._vocabulary.ordinary_ids(), lambda model, copied: None)

    def _in_use(self) -> set[str | None]:
        return {sequence.handle.adapter for sequence in [*self._running, *self._waiting]}

    def _advance(self, sequence: Sequence) -> None:
        if len(sequence.token_ids) > self.context_limits.tokens:
            if self.context_limits.on_full == "error":
                raise KVError(f"the context is full after {len(sequence.token_ids)} tokens (on_full=error)")
            self._finish(sequence, "length")
            return
        if isinstance(sequence, EmbeddingSequence):
            self._embed(sequence)
            return
        logits_RV = self._next_logits(sequence)
        if isinstance(sequence, ScoringSequence):
            sequence.add_prompt_logprobs(logits_RV[-len(sequence.continuation) :])
            self._updates.append(Update(sequence.handle, "", (), True))
            self._remove(sequence, "stop")
            return
        if sequence.needs_prompt_logits:
            sequence.add_prompt_logprobs(logits_RV)
        token = sequence.sampler.sample(logits_RV[-1])
        sequence.append(token)
        text, reason = sequence.decode()
        self._updates.append(Update(sequence.handle, text, (token.token_id,), reason is not None))
        if reason:
            self._remove(sequence, reason)

    def _embed(self, sequence: EmbeddingSequence) -> None:
        with self.adapters.active(sequence.handle.adapter):
            model = base_model(self.adapters.model_of(sequence.handle.adapter))
            ids = torch.tensor([sequence.token_ids], device=self.device)
            sequence.add_hidden_states(last_hidden_states(model, ids))
        sequence.finish()
        self._updates.append(Update(sequence.handle, "", (), True))
        self._remove(sequence, "stop")

    @torch.inference_mode()
    def _next_logits(self, sequence: Sequence) -> Tensor:
        """Logits whose last row is for the next token; all rows of the prompt if its logprobs are requested."""
        handle, steps = sequence.handle, self._running[sequence]
        with self.adapters.active(handle.adapter):
            if steps and len(sequence.token_ids) - 1 != self.context_limits.original_positions:
                return steps.send(sequence.token_ids[-1])
            if steps:
                steps.close()
            model = base_model(self.adapters.model_of(handle.adapter))
            options = {"use_cache": handle.use_cache, "all_logits": sequence.needs_prompt_logits}
            steps = self._running[sequence] = start(model, sequence.token_ids, **options)
            return next(steps)

    def _queue(self, sequence: Sequence) -> None:
        sequence.handle.use_cache &= self.cache_fault is None
        self._waiting.append(sequence)

    def _end(self, handle: Handle, reason: FinishReason) -> bool:
        for sequence in [*self._running, *self._waiting]:
            if sequence.handle is handle:
                self._finish(sequence, reason)
                return True
        return False

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a request that is cancelled, failed or at a limit, with an update for the text that was held back."""
        text = sequence.stream.finish()
        sequence.handle.text += text
        self._updates.append(Update(sequence.handle, text, (), True))
        self._remove(sequence, reason)

    def _remove(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.handle.finish_reason = reason
        if sequence not in self._running:
            self._waiting.remove(sequence)
        elif steps := self._running.pop(sequence):
            steps.close()
        self._discard_unused()
