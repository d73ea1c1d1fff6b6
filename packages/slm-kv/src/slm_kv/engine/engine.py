"""The engine, which generates for many requests from one pool of pages. A step is plan, run, sample, commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Sequence as Ids
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.engine.base_copy import BaseCopy, NewAdapter
from slm_kv.engine.context_limits import ContextLimits, OnFull
from slm_kv.engine.prepared_models import PreparedModels, check_weights
from slm_kv.engine.requests import FinishReason, Handle, Update
from slm_kv.engine.scheduler import Scheduler, Work
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.step.cuda_graphs import require_cuda_graphs
from slm_kv.engine.step.device_results import device_results
from slm_kv.engine.step.graphed_decode import CudaGraphs
from slm_kv.engine.step.launched_step import LaunchedStep, launch
from slm_kv.engine.step.model_runner import ModelRunner
from slm_kv.engine.step.step_results import host_results
from slm_kv.engine.step.token_step import decode_token, take_failure, take_hidden, take_result
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
from slm_kv.sampling.speculation import MAX_DECODE_ROWS, Speculate, require_speculate

Take = Callable[[Work, Any, Scheduler, list[Update]], FinishReason | None]


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
        cuda_graphs: ``auto`` replays captured decode steps on a CUDA device, one launch each. Not run on a GPU yet.

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
        cuda_graphs: CudaGraphs = "off",
    ) -> None:
        require_at_least(1, page_size=page_size, max_pages=max_pages, max_sequences=max_sequences)
        require_at_least(max_sequences, max_step_tokens=max_step_tokens)
        check_weights(weights, gate_text, packed)
        require_speculate(speculate)
        require_cuda_graphs(cuda_graphs)
        super().__init__(model, tokenizer)
        self.max_sequences = max_sequences
        self._prepared = PreparedModels(self.models)
        try:
            limits = ContextLimits.from_config(self.model.config, page_size, max_pages, None, on_full)
            if packed and not weights:
                self._prepared.let_rotated_layers_only_call()
            probe = self._prepared.install_attention(limits.positions)
            ids, lengths = self._vocabulary.ordinary_ids(), (page_size, limits.positions)
            subject = Subject(self._prepared, self.models[0], self.adapters, None, probe, ids, *lengths)
            self._compiler = StepCompiler(subject)
            if packed and not weights:
                self._compiler.compute_references()
            known = verify(self._prepared, self.adapters, probe, ids, limits)
            self.context_limits = limits.narrowed(known, probe.window)
            self.pool = PagePool(page_size, max_pages, prefix_caching=prefix_caching, window=probe.window)
            if packed:
                self._prepared.pack(weights, gate_text, self._vocabulary, self.context_limits.positions)
            # Allocated after packing, whose temporary memory is free again by then: the peak is lower.
            sizes = (max_pages, page_size, probe.dtype, probe.device)
            self.storage = PagedStorage(probe.shapes, *sizes, has_spare_page=cuda_graphs == "auto")
            if not self._compiler.compile(self.context_limits.positions):
                self._prepared.unpack_rotated_layers()
        except BaseException:
            self._prepared.restore()
            raise
        self._prepared.release_memory()
        positions, step = self.context_limits.positions, self._compiler.step_on(self.storage)
        self._runner = ModelRunner(base_model(self.model), self.adapters, self.storage, probe, step)
        self._runner.use_graphs(cuda_graphs, max(max_sequences, MAX_DECODE_ROWS))
        self.scheduler = Scheduler(self.pool, max_sequences, max_step_tokens, positions, speculate == "auto")
        self._results = device_results if self.device.type == "cuda" else host_results
        self._launches_ahead = self.device.type != "cpu"
        self._launched: LaunchedStep | None = None
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
        """A line each: the pool, attention on a GPU, the model, graphs if asked for, and a limit of the context."""
        limits, storage, attention = self.context_limits, self.storage, self._runner.attention.summary_line
        adapter = f"adapter {self.adapters.default}" if self.adapters.default else "no adapter"
        return (
            f"pool: {limits.max_pages} pages of {limits.page_size} tokens, {limits.slots:,} tokens in total, "
            f"{storage.nbytes / 1e6:.1f} MB ({str(storage.dtype)[6:]}, {len(storage.keys)} layers)\n{attention}"
            f"model: {type(base_model(self.model)).__name__} on {storage.device.type}, {adapter}, "
            f"{self._prepared.packed_layers}, {self._compiler.summary}{limits.limitation}{self._runner.graphs_summary}"
        )

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute or an update to return."""
        return bool(self._sequences or self._updates)

    def step(self) -> list[Update]:
        """Compute a token, or by speculation several, of each sequence that decodes, and a chunk of waiting prompts.

        On a GPU, the next step is launched before the tokens of this one are decoded, and stop strings found.
        """
        launched = self._take_launched() or self._launch()
        undecoded = [*self._take(launched.failures, take_failure), *self._take(launched.results(), take_result)]
        undecoded += self._take(launched.hidden, take_hidden)
        if self._launches_ahead and self._can_launch():
            self._launched = self._launch()
        for sequence in undecoded:
            self._end_if(sequence, partial(decode_token, sequence, self._updates))
        updates, self._updates = self._updates, []
        return updates

    def _launch(self) -> LaunchedStep:
        self._enforce_limits()
        plan = self.scheduler.plan()
        for copy in plan.copies:
            self.storage.copy(copy.source, copy.target)
        return launch(plan.work, self._runner, self._results)

    def _can_launch(self) -> bool:
        """Whether there is a next step, and no sequence has reached a limit, at which its text is needed."""
        return self.scheduler.busy and all(map(self.context_limits.fits, self.scheduler.running))

    def _take_launched(self) -> LaunchedStep | None:
        """The step that was launched ahead, unless all of its sequences have ended since."""
        launched, self._launched = self._launched, None
        return launched if launched and any(self._runs(work.sequence) for work in launched.work) else None

    def _runs(self, sequence: Sequence) -> bool:
        return sequence.handle.id in self._sequences

    def _take(self, results: Iterable[tuple[Work, Any]], take: Take) -> Iterator[Sequence]:
        """Take the results of sequences that have not ended since; yield those whose last token is not decoded."""
        for work, rows in results:
            if self._runs(work.sequence):
                self._end_if(work.sequence, partial(take, work, rows, self.scheduler, self._updates))
                if self._runs(work.sequence) and not work.sequence.is_decoded:
                    yield work.sequence

    def _end_if(self, sequence: Sequence, action: Callable[[], FinishReason | None]) -> None:
        """End a sequence if ``action`` returns a reason or fails, which ends no other request."""
        try:
            if reason := action():
                self._remove(sequence, reason)
        except Exception as error:
            self._fail(sequence, error)

    def weights_changed(self) -> None:
        """Drop all known prefixes. Must be called after weights were changed in place."""
        self._launched = None  # the next step computes it again, with the new weights
        self._compiler.refresh()
        self._runner.step = self._compiler.step_on(self.storage)
        self._runner.forget_graphs()
        self.adapters.refresh()
        self.pool.clear_cache()

    def close(self, *, restore: bool = True) -> None:
        self._launched = None
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
        self._runner.forget_graphs()
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
                self.context_limits.slide(sequence, self.scheduler)
            elif self.context_limits.on_full == "error":
                tokens = len(sequence.token_ids)
                self._fail(sequence, KVError(f"the context is full after {tokens} tokens (on_full=error)"))
            else:
                self._finish(sequence, "length")

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
