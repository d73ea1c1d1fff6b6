"""Many sequences from one pool of pages: a step is plan, run, sample, commit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Ids
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.engine.adapters import Adapters, plain
from slm_kv.attention.step_batch import PagedStorage
from slm_kv.attention.interface import NAME, open_doors
from slm_kv.errors import KVError
from slm_kv.linear.int8_gate import Int8Layers, pack_int8, rows_of
from slm_kv.linear.packing import Packed, pack
from slm_kv.pages.pool import PagePool
from slm_kv.engine.requests import FinishReason, Handle, Update
from slm_kv.engine.context_limits import OnFull, Room
from slm_kv.engine.runner import Runner
from slm_kv.sampling.sampler import TokenSampler, prompt_logprobs
from slm_kv.sampling.params import SamplingParams
from slm_kv.engine.scheduler import Scheduler, Work
from slm_kv.engine.sequence import Sequence
from slm_kv.engine.text_stream import TextStream
from slm_kv.engine.vocabulary import Prompt, Vocabulary


class Engine:
    """Generates for many requests at once. It has ``model`` to itself until ``close``: one model, or several that
    share a base and bring adapters of different methods; the first answers for the base.

    ``page_size`` tokens a page, ``max_pages`` pages: the pool is made at once and never grows. ``max_sequences`` run
    side by side, ``max_step_tokens`` rows a step at most, prompts in chunks beside decoding. ``on_full`` says what
    becomes of a request whose prompt and ``max_new_tokens`` exceed the pool or the model's positions:
    ``refuse`` at the door, ``stop`` at the end of the room with finish_reason ``length``, ``error`` there, or go on
    in a ``window``. ``packed``: the linear layers lie prepacked, on a CPU, while the engine lives. ``int8_text``:
    they do so in 8 bits, if that raises the perplexity of this text by 1 % at most, measured with each adapter and with
    none; the plain weights are kept beside them for ``close``.

    Nothing that a request does ends the engine. Not for several threads at once.

    Raises KVError, and leaves the model as it was, for sizes that make no sense, a model whose attention cannot read
    pages, and 8 bits that cost more.
    """

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
        int8_text: Prompt | None = None,
    ) -> None:
        _check_at_least(1, page_size=page_size, max_pages=max_pages, max_sequences=max_sequences)
        _check_at_least(max_sequences, max_step_tokens=max_step_tokens)
        if int8_text is not None and not packed:
            raise KVError("int8_text packs the linear layers and packed=False does not; leave one of them out")
        self.models = [model] if isinstance(model, nn.Module) else list(model)
        self.model, self.tokenizer = self.models[0], tokenizer
        config: Any = self.model.config
        self._vocabulary = Vocabulary(self.model, tokenizer)
        self._implementation = config._attn_implementation
        self.adapters = Adapters(self.models)
        self.int8: Int8Layers | None = None
        self._packed: Packed | Int8Layers | None = None
        try:
            probe = open_doors([one.eval() for one in self.models])
            self.room = Room.of(config, page_size, max_pages, probe.window, on_full)
            self.pool = PagePool(page_size, max_pages, prefix_caching=prefix_caching)
            if int8_text is not None:
                self.int8 = self._packed = self._pack_int8(int8_text)
            elif packed:
                self._packed = pack(self.model if len(self.models) == 1 else nn.ModuleList(self.models))
            shapes = [probe.layers[layer] for layer in sorted(probe.layers)]  # pages come last: packing takes its own
            self.storage = PagedStorage(shapes, max_pages, page_size, self.model.dtype, self.model.device)
        except BaseException:
            self._give_back()
            raise
        self._runner = Runner(plain(self.model), self.adapters, self.storage)
        self.scheduler = Scheduler(self.pool, max_sequences, max_step_tokens)
        self._sequences: dict[int, Sequence] = {}
        self._numbers = itertools.count()
        self._updates: list[Update] = []

    def check(self, prompt_ids: Ids[int], params: SamplingParams, *, adapter: str | None = None) -> None:
        """Raises KVError where ``submit`` would. Changes nothing: any thread may ask."""
        self._vocabulary.ids(prompt_ids)
        self.room.check(len(prompt_ids), params.max_new_tokens)
        self.adapters.find(adapter)

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        use_cache: bool = True,
    ) -> Handle:
        """Queue ``prompt``, text or token ids. ``adapter`` by name; None is the model as it was given, ``__base__``
        the model without any. Without ``use_cache`` no key and no value outlives the token it was computed for: the
        whole text is computed anew for each, as slow as that is.

        Raises KVError for what can never be answered: an empty prompt, one that is too long, an unknown adapter.
        """
        params = params or SamplingParams()
        prompt_ids = self._vocabulary.ids(prompt)
        self.check(prompt_ids, params, adapter=adapter)
        name = self.adapters.find(adapter)
        handle = Handle(next(self._numbers), tuple(prompt_ids), params, name, use_cache)
        ends = self._vocabulary.ends.union(params.stop_token_ids)
        sampler = TokenSampler(params, prompt_ids, self._vocabulary.size, ends)
        stream = TextStream(self.tokenizer, params.stop, prompt_ids)
        sequence = Sequence(handle, sampler, stream, self.adapters.root(name))
        self._sequences[handle.id] = sequence
        self.scheduler.add(sequence)
        return handle

    def cancel(self, handle: Handle) -> bool:
        """End a request and free its pages now. False where it had ended before."""
        sequence = self._sequences.get(handle.id)
        if sequence is None:
            return False
        self._finish(sequence, "cancelled")
        return True

    @property
    def summary(self) -> str:
        """The model and the pool in two lines."""
        room, storage = self.room, self.storage
        dtype = str(storage.dtype).removeprefix("torch.")
        packed = len(self._packed.layers) if self._packed else 0
        adapter = f"adapter {self.adapters.default}" if self.adapters.default else "no adapter"
        return (
            f"pool: {room.max_pages} pages of {room.page_size} tokens, {room.slots:,} tokens in all, "
            f"{storage.nbytes / 1e6:.1f} MB ({dtype}, {len(storage.keys)} layers)\n"
            f"model: {type(plain(self.model)).__name__} on {storage.device.type}, {adapter}, "
            f"{packed} linear layer{'' if packed == 1 else 's'} prepacked{' in 8 bits' if self.int8 else ''}"
        )

    @property
    def preemptions(self) -> int:
        """How often a sequence gave its pages back for another, to be computed again."""
        return self.scheduler.preemptions

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do or to tell."""
        return bool(self._sequences or self._updates)

    def step(self) -> list[Update]:
        """One token for each sequence that decodes, and a piece of the prompts that wait. What it added."""
        self._make_room()
        plan = self.scheduler.plan()
        for copy in plan.copies:
            self.storage.copy(copy.source, copy.target)
        for work, logits in self._run(plan.work):
            try:
                self._sample(work, logits)
            except Exception as failed:  # of this request: the others go on
                self._fail(work.sequence, failed)
        updates, self._updates = self._updates, []
        return updates

    def weights_changed(self) -> None:
        """Forget all known prefixes: to be called after weights of the model were changed in place."""
        self.adapters.refresh()
        self.pool.clear_cache()

    def stream(self, handle: Handle) -> Iterator[Update]:
        """Step until ``handle`` is finished; its updates as they come."""
        while self.busy:
            yield from (update for update in self.step() if update.handle is handle)
            if handle.finished:
                return

    def generate(self, prompts: Iterable[Prompt], params: SamplingParams | None = None) -> list[Handle]:
        """Answer all ``prompts``; in their order."""
        handles = [self.submit(prompt, params) for prompt in prompts]
        while self.busy:
            self.step()
        return handles

    def close(self) -> None:
        """Cancel what runs, and give the model back as it was."""
        for sequence in list(self._sequences.values()):
            self._finish(sequence, "cancelled")
        self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give_back(self) -> None:
        if self._packed:
            self._packed.unpack()
            self._packed = None
        for model in self.models:
            model.set_attn_implementation(self._implementation)

    def _pack_int8(self, text: Prompt) -> Int8Layers:
        """8 bits, if the text allows them: measured with the model's own attention, which needs no pages."""
        if len(self.models) > 1:
            raise KVError(f"int8_text measures one model and {len(self.models)} were given; leave it out")
        rows = rows_of(self._vocabulary.ids(text), self.room.positions)
        self.model.set_attn_implementation(self._implementation)
        found = pack_int8(self.model, rows)
        self.model.set_attn_implementation(NAME)
        return found

    def _make_room(self) -> None:
        """Apply ``on_full`` to those that have come to the end of the room."""
        for sequence in list(self.scheduler.running):
            if self.room.fits(sequence):
                continue
            if self.room.on_full == "window":
                self._slide(sequence)
            elif self.room.on_full == "error":
                self._fail(sequence, KVError(f"no room after {len(sequence.token_ids)} tokens (on_full=error)"))
            else:
                self._finish(sequence, "length")

    def _slide(self, sequence: Sequence) -> None:
        sequence.handle.slides += 1
        if sequence.handle.use_cache and self.room.slides_pages(sequence):
            self.room.slide(sequence, self.pool)
        else:
            self.scheduler.preempt(sequence)
            self.room.restart(sequence)

    def _run(self, work: tuple[Work, ...]) -> list[tuple[Work, Tensor]]:
        """Logits of each piece of work. Where the model fails, each is tried alone: only the culprit ends."""
        try:
            return [pair for group, logits in self._runner.run(work) for pair in zip(group, logits, strict=True)]
        except Exception as failed:
            if len(work) == 1:
                self._fail(work[0].sequence, failed)
                return []
            return [pair for one in work for pair in self._run((one,))]

    def _sample(self, work: Work, logits_RV: Tensor) -> None:
        sequence, handle = work.sequence, work.sequence.handle
        self.pool.commit(sequence.held, sequence.next_ids(work.count), sound=False)
        if sequence.wants_prompt_rows:
            _add_prompt_logprobs(handle, logits_RV)
        if work.samples:
            choice = sequence.sampler.choose(logits_RV[-1])
            if handle.use_cache:
                self.pool.commit(sequence.held, (), sound=True)  # a NaN in any key or value had shown in these logits
            else:
                self.scheduler.forget(sequence)
            piece, reason = sequence.append(choice, self._vocabulary.ends)
            handle.text += piece
            self._updates.append(Update(handle, piece, (handle.token_ids[-1],), reason is not None))
            if reason:
                self._leave(sequence, reason)

    def _fail(self, sequence: Sequence, failed: Exception) -> None:
        sequence.handle.error, sequence.handle.exception = str(failed) or type(failed).__name__, failed
        self._finish(sequence, "error")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End it between tokens, and tell."""
        piece = sequence.stream.finish()
        sequence.handle.text += piece
        self._updates.append(Update(sequence.handle, piece, (), True))
        self._leave(sequence, reason)

    def _leave(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.handle.finish_reason = reason
        del self._sequences[sequence.handle.id]
        self.scheduler.remove(sequence)


def _add_prompt_logprobs(handle: Handle, logits_RV: Tensor) -> None:
    first = len(handle.prompt_logprobs) + 1  # the token that the first row predicts
    rows = min(len(logits_RV), len(handle.prompt_ids) - first)
    following = handle.prompt_ids[first - 1 : first + rows]
    handle.prompt_logprobs += prompt_logprobs(logits_RV[:rows], following, handle.params.prompt_logprobs or 0)


def _check_at_least(least: int, **given: int) -> None:
    for name, number in given.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise KVError(f"{name}={number!r} is no whole number of at least {least}")
