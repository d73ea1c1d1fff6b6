"""The engine, which generates for many requests from one pool of pages. A step is plan, run, sample, commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Ids
from functools import partial
from typing import Literal, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.engine.base_copy import BaseCopy, NewAdapter
from slm_kv.engine.context_limits import ContextLimits, OnFull
from slm_kv.engine.embeddings import EmbeddingSequence
from slm_kv.engine.prepared_models import PreparedModels, check_weights
from slm_kv.engine.requests import FinishReason, Handle, Update
from slm_kv.engine.scheduler import Scheduler, Work
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.step.model_runner import ModelRunner, split_embeddings
from slm_kv.engine.step.step_results import StepResult, fetch, unfetched
from slm_kv.engine.step.token_step import sample_tokens
from slm_kv.engine.text_engine import EngineLoad, TextEngine
from slm_kv.engine.verification.added_adapter import prepare_adapter
from slm_kv.engine.verification.comparison import Subject
from slm_kv.engine.verification.compiled_adapters import StepCompiler
from slm_kv.engine.verification.verify import verify
from slm_kv.engine.vocabulary import Prompt
from slm_kv.errors import KVError, require_at_least
from slm_kv.linear.quantisation_gate import QuantisedModel
from slm_kv.linear.quantised_selection import QuantisedFormat
from slm_kv.pages.pool import PagePool
from slm_kv.pages.storage import PagedStorage
from slm_kv.peft_models import base_model
from slm_kv.sampling.speculation import Speculate, require_speculate

# Computes the rows of work: for each call of a model, its items and a tensor for each.
T = TypeVar("T")
Run = Callable[[tuple[Work, ...]], Iterable[tuple[list[Work], list[Tensor]]]]


class Engine(TextEngine):
    """Generates for many requests at the same time.

    The models must not be used elsewhere until ``close``, which restores them. An error in a request ends that request
    only, never the engine. Not thread-safe, except for ``check``.

    Args:
        model: One model, or several that share a base and have adapters of different methods. The first also serves
            the base.
        tokenizer: For prompts and answers as text; without it only token ids are possible.
        page_size: Tokens in a page.
        max_pages: Pages of the pool, which is allocated at once and never grows.
        max_sequences: Sequences that run at the same time; others wait.
        max_step_tokens: Tokens computed in one step: prompts are split into chunks and computed beside the sequences
            that decode.
        on_full: What happens if a prompt and its ``max_new_tokens`` exceed the pool or the model's positions:
            ``refuse`` the request on submission; ``stop`` at the limit with finish_reason ``length``; end there with
            an ``error``; or continue in a ``window`` (a model with rotary positions drops the oldest page but the
            first, which is approximate; others compute the last half again).
        prefix_caching: Keep the pages of finished requests for prompts with the same prefix, until pages are needed.
        packed: On a CPU, prepack the linear layers until ``close``.
        weights: Hold them in 8 bits (``q8``) or 4 (``q4``), if that raises the perplexity of ``gate_text`` by at most
            1 % or 3 %, with each adapter and with none. ``close`` leaves rounded weights.
        gate_text: A text or its token ids; the default is a built-in text.
        speculate: ``auto`` drafts tokens that repeat the prompt or the text so far, and computes them beside the next
            token, while that pays: the text is the same, in fewer steps. ``off`` computes one token in a step.

    Raises:
        UnsupportedModel: the model's logits on pages are not those of its own forward pass.
        KVError: a size is invalid, or quantised weights raise the perplexity too far. Models are left as they were.
    """

    kind: Literal["paged"] = "paged"
    reason: None = None
    context_limits: ContextLimits

    def __init__(
        self,
        model: PreTrainedModel | Ids[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        page_size: int = 16,
        max_pages: int = 256,
        max_sequences: int = 32,
        max_step_tokens: int = 256,
        on_full: OnFull = "refuse",
        prefix_caching: bool = True,
        packed: bool = True,
        weights: QuantisedFormat | None = None,
        gate_text: Prompt | None = None,
        speculate: Speculate = "auto",
    ) -> None:
        require_at_least(1, page_size=page_size, max_pages=max_pages, max_sequences=max_sequences)
        require_at_least(max_sequences, max_step_tokens=max_step_tokens)
        check_weights(weights, gate_text, packed)
        require_speculate(speculate)
        super().__init__(model, tokenizer)
        self.max_sequences = max_sequences
        self._prepared = PreparedModels(self.models)
        try:
            limits = ContextLimits.from_config(self.model.config, page_size, max_pages, None, on_full)
            if packed and not weights:
                self._prepared.let_rotated_layers_only_call()
            probe = self._prepared.install_attention(limits.positions)
            ids, sizes = self._vocabulary.ordinary_ids(), (page_size, limits.positions)
            subject = Subject(self._prepared, self.models[0], self.adapters, None, probe, ids, *sizes)
            self._compiler = StepCompiler(subject)
            if packed and not weights:
                self._compiler.compute_references()
            known = verify(self._prepared, self.adapters, probe, ids, limits)
            self.context_limits = limits.narrowed(known, probe.window)
            self.pool = PagePool(page_size, max_pages, prefix_caching=prefix_caching, window=probe.window)
            if packed:
                self._prepared.pack(weights, gate_text, self._vocabulary, self.context_limits.positions)
            # Allocated after packing, whose temporary memory is free again by then: the peak is lower.
            self.storage = PagedStorage(probe.shapes, max_pages, page_size, probe.dtype, probe.device)
            if not self._compiler.compile(self.context_limits.positions):
                self._prepared.unpack_rotated_layers()
        except BaseException:
            self._prepared.restore()
            raise
        self._prepared.release_memory()
        positions, step = self.context_limits.positions, self._compiler.step_on(self.storage)
        self._runner = ModelRunner(base_model(self.model), self.adapters, self.storage, probe, step)
        self.scheduler = Scheduler(self.pool, max_sequences, max_step_tokens, positions, speculate == "auto")
        self._fetch = fetch if self.device.type == "cuda" else unfetched
        self._sequences: dict[int, Sequence] = {}

    def load(self) -> EngineLoad:
        """Return how busy the engine is."""
        scheduler, drafts = self.scheduler, self.scheduler.speculation
        counts = (len(scheduler.running), len(scheduler.waiting), self.pool.used_pages, self.context_limits.max_pages)
        return EngineLoad(*counts, scheduler.preemptions, drafts.drafted, drafts.accepted)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the keys and values."""
        return self.storage.dtype

    @property
    def device(self) -> torch.device:
        """The device of the pages and of the model."""
        return self.storage.device

    @property
    def quantised(self) -> QuantisedModel | None:
        """The quantised model and the measured rise of its perplexity; None without ``weights``."""
        return self._prepared.quantised

    @property
    def summary(self) -> str:
        """A line each: the pool, attention on a GPU, the model, and the context if it is shorter than the model's."""
        limits, storage, attention = self.context_limits, self.storage, self._runner.attention.summary_line
        adapter = f"adapter {self.adapters.default}" if self.adapters.default else "no adapter"
        return (
            f"pool: {limits.max_pages} pages of {limits.page_size} tokens, {limits.slots:,} tokens in total, "
            f"{storage.nbytes / 1e6:.1f} MB ({str(storage.dtype)[6:]}, {len(storage.keys)} layers)\n{attention}"
            f"model: {type(base_model(self.model)).__name__} on {storage.device.type}, {adapter}, "
            f"{self._prepared.packed_layers}, {self._compiler.summary}{limits.limitation}"
        )

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute or an update to return."""
        return bool(self._sequences or self._updates)

    def step(self) -> list[Update]:
        """Compute a token, or by speculation several, of each sequence that decodes, and a chunk of waiting prompts."""
        self._enforce_limits()
        plan = self.scheduler.plan()
        for copy in plan.copies:
            self.storage.copy(copy.source, copy.target)
        embedding, generating = split_embeddings(plan.work)
        self._process(self._fetch(self._run(generating, self._runner.run)), self._sample)
        self._process(self._run(embedding, self._runner.run_hidden), self._embed)
        updates, self._updates = self._updates, []
        return updates

    def _process(self, results: Iterable[tuple[Work, T]], process: Callable[[Work, T], None]) -> None:
        for work, rows in results:
            try:
                process(work, rows)
            except Exception as error:  # ends this request only
                self._fail(work.sequence, error)

    def weights_changed(self) -> None:
        """Drop all known prefixes. Must be called after weights were changed in place."""
        self._compiler.refresh()
        self._runner.step = self._compiler.step_on(self.storage)
        self.adapters.refresh()
        self.pool.clear_cache()

    def close(self, *, restore: bool = True) -> None:
        for sequence in list(self._sequences.values()):
            self._finish(sequence, "cancelled")
        self._runner.step = None
        self._compiler.clear("the engine is closed")
        if restore:
            self._prepared.restore()

    def copy_base(self) -> BaseCopy:
        prepare = partial(prepare_adapter, compiler=self._compiler, limits=self.context_limits)
        return BaseCopy(self._prepared.copy_base(), self.adapters, self._vocabulary.ordinary_ids(), prepare)

    def install_adapter(self, adapter: NewAdapter) -> None:
        super().install_adapter(adapter)
        self._compiler.add(adapter.name, adapter.compiled)
        self._runner.set_step_adapters(self._compiler.adapters)

    def _discard(self, name: str) -> None:
        super()._discard(name)
        self._compiler.remove(name)
        self._runner.set_step_adapters(self._compiler.adapters)

    def _in_use(self) -> set[str | None]:
        return {sequence.handle.adapter for sequence in self._sequences.values()}

    def _enforce_limits(self) -> None:
        """Apply ``on_full`` to the sequences that have reached a limit."""
        for sequence in list(self.scheduler.running):
            if self.context_limits.fits(sequence):
                continue
            if self.context_limits.on_full == "window":
                self._slide(sequence)
            elif self.context_limits.on_full == "error":
                tokens = len(sequence.token_ids)
                self._fail(sequence, KVError(f"the context is full after {tokens} tokens (on_full=error)"))
            else:
                self._finish(sequence, "length")

    def _slide(self, sequence: Sequence) -> None:
        sequence.handle.slides += 1
        if sequence.handle.use_cache and self.context_limits.can_drop_page(sequence):
            self.context_limits.drop_page(sequence, self.pool)
        else:
            self.scheduler.preempt(sequence)
            self.context_limits.keep_last_half(sequence)

    def _run(self, work: tuple[Work, ...], run: Run) -> list[tuple[Work, Tensor]]:
        """Compute the rows of each item of work. If the model fails, each item is run alone to find the cause."""
        try:
            return [pair for items, rows in run(work) for pair in zip(items, rows, strict=True)]
        except Exception as error:
            if len(work) == 1:
                self._fail(work[0].sequence, error)
                return []
            return [pair for item in work for pair in self._run((item,), run)]

    def _sample(self, work: Work, result: StepResult) -> None:
        sequence, handle, known = work.sequence, work.sequence.handle, work.count - len(work.draft)
        # Behind a window, logits do not depend on all tokens of a chunk: its keys are checked instead.
        checked = self.pool.window is not None and (known > 1 or not work.samples)
        if checked:
            self._runner.check_keys(work)
        self.pool.commit(sequence.block_table, sequence.next_ids(known), verified=checked and handle.use_cache)
        if sequence.needs_prompt_logits:
            sequence.add_prompt_logprobs(result.logits_RV)
        if work.samples:
            reason = sample_tokens(work, result, self.scheduler, self._updates)
            if reason:
                self._remove(sequence, reason)

    def _embed(self, work: Work, hidden_TD: Tensor) -> None:
        sequence = work.sequence
        assert isinstance(sequence, EmbeddingSequence)
        self.pool.commit(sequence.block_table, sequence.next_ids(work.count), verified=False)
        sequence.add_hidden_states(hidden_TD)
        if work.samples:  # the last tokens
            sequence.finish()
            self._updates.append(Update(sequence.handle, "", (), True))
            self._remove(sequence, "stop")

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        sequence.handle.error, sequence.handle.exception = str(error) or type(error).__name__, error
        self._finish(sequence, "error")

    def _queue(self, sequence: Sequence) -> None:
        self._sequences[sequence.handle.id] = sequence
        self.scheduler.add(sequence)

    def _end(self, handle: Handle, reason: FinishReason) -> bool:
        if handle.id not in self._sequences:
            return False
        self._finish(self._sequences[handle.id], reason)
        return True

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence that is cancelled, failed or at a limit, with an update for the text that was held back."""
        text = sequence.stream.finish()
        sequence.handle.text += text
        self._updates.append(Update(sequence.handle, text, (), True))
        self._remove(sequence, reason)

    def _remove(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.handle.finish_reason = reason
        del self._sequences[sequence.handle.id]
        self.scheduler.remove(sequence)
        self._discard_unused()
