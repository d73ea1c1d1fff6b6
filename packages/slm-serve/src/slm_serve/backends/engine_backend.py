"""slm-kv's engines as a backend. They run on their own thread, so that the event loop never waits for them."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from slm_kv import BASE_ADAPTER, Grammar, GrammarError, Handle, InvalidLogits, TextEngine, Update
from slm_serve.backends.answer import Answer, Delta, FinishReason, Timing
from slm_serve.backends.protocol import BackendKind, BackendLoad, Job
from slm_serve.backends.served_models import ServedModel
from slm_serve.errors import BackendStoppedError, ModelFailedError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger("slm_serve")
Action = Callable[[], None]


@dataclass
class _RunningJob:
    """A submitted job, and how much of its handle has been sent to its answer."""

    answer: Answer
    index: int
    job: Job
    started: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None
    last_sent_at: float = -math.inf
    sent_characters: int = 0
    sent_tokens: int = 0
    sent_prompt_logprobs: int = 0

    def next_delta(
        self, handle: Handle, finish_reason: FinishReason | None = None, timing: Timing | None = None
    ) -> Delta:
        """Return the part of ``handle`` that was not sent yet, and mark it as sent."""
        delta = Delta(
            handle.text[self.sent_characters :],
            tuple(handle.token_ids[self.sent_tokens :]),
            tuple(handle.logprobs[self.sent_tokens :]),
            tuple(handle.prompt_logprobs[self.sent_prompt_logprobs :]),
            finish_reason,
            timing,
        )
        self.sent_characters, self.sent_tokens = len(handle.text), len(handle.token_ids)
        self.sent_prompt_logprobs = len(handle.prompt_logprobs)
        return delta


class EngineBackend:
    """A Backend over one of slm-kv's engines: on pages, or over transformers' own generation.

    Only the engine's thread touches the engine, except for ``check`` and reading its load. Other threads put actions
    into an inbox, which the engine's thread runs between two steps.

    Args:
        served: served models by name.
        adapters: the engine's name for each served adapter, by served name; does not contain the base.
        tokenizers: as in the protocol.
        stream_interval: minimum seconds between two deltas of a streamed text.
    """

    def __init__(
        self,
        engine: TextEngine,
        served: Mapping[str, ServedModel],
        adapters: Mapping[str, str],
        tokenizers: Mapping[str, PreTrainedTokenizerBase],
        loop: asyncio.AbstractEventLoop,
        summary: str = "",
        stream_interval: float = 0,
    ) -> None:
        assert engine.tokenizer is not None, "a server needs a tokenizer"
        # A copy: a fast tokenizer must not be used by two threads at once, and the engine decodes on its own.
        self.served, self.tokenizer = served, copy.deepcopy(engine.tokenizer)
        self.tokenizers: Mapping[str, PreTrainedTokenizerBase] = {
            name: self.tokenizer if tokenizer is engine.tokenizer else tokenizer
            for name, tokenizer in tokenizers.items()
        }
        self.context_length = engine.context_limits.tokens
        self.max_sequences, self.summary = engine.max_sequences, summary or engine.summary
        self.kind: BackendKind = "engine" if engine.kind == "paged" else engine.kind
        self.reason = engine.reason
        self._engine, self._adapters, self._loop = engine, adapters, loop
        self._stream_interval = stream_interval
        self._inbox: queue.SimpleQueue[Action | None] = queue.SimpleQueue()  # None: stop
        self._running: dict[int, _RunningJob] = {}  # by the id of the handle
        self._failure: str | None = None
        self._ended = False  # the engine takes no more steps
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        return self._failure

    def load(self) -> BackendLoad:
        load = self._engine.load()
        return BackendLoad(load.running, load.waiting, load.pages_used, load.pages, load.preemptions)

    def check(self, job: Job) -> None:
        self._engine.check(job.prompt_ids, job.params, adapter=self._engine_adapter(job))

    def compile_grammar(self, grammar: Grammar) -> None:
        self._engine.compile_grammar(grammar)

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        handles: list[Handle] = []
        answer.on_close.append(lambda: self._inbox.put(lambda: self._cancel(handles)))
        answer.on_finish = lambda error: self._inbox.put(lambda: self._finish(handles, answer, error))
        self._inbox.put(lambda: self._start(jobs, answer, handles))

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()

    def _engine_adapter(self, job: Job) -> str:
        return self._adapters.get(job.model, BASE_ADAPTER)

    def _run(self) -> None:
        """Alternate between the actions of the inbox and steps of the engine, until ``close``."""
        while self._process_inbox():
            try:
                updates = self._engine.step()
            except Exception:
                logger.exception("the engine failed; restart the server")
                self._failure = "the engine failed; see the server's log"
                self._end()
            else:
                self._send(updates)
        self._end()
        self._engine.close()

    def _end(self) -> None:
        """Take no more steps and fail the jobs that are still running."""
        self._ended = True
        running, self._running = self._running, {}
        for job in running.values():
            self._on_loop(partial(job.answer.fail, BackendStoppedError()))

    def _process_inbox(self) -> bool:
        """Run all actions of the inbox; block while there is nothing to compute. Returns False after ``close``."""
        while self._ended or not self._engine.busy or not self._inbox.empty():
            action = self._inbox.get()
            if action is None:
                return False
            action()
        return True

    def _start(self, jobs: Sequence[Job], answer: Answer, handles: list[Handle]) -> None:
        if self._ended:
            self._on_loop(partial(answer.fail, BackendStoppedError()))
            return
        for index, job in enumerate(jobs):
            try:
                handle = self._engine.submit(
                    job.prompt_ids, job.params, adapter=self._engine_adapter(job), use_cache=job.use_cache
                )
            except Exception as error:  # `check` accepted the job, so this is a bug in `check` or `submit`
                logger.exception("the engine rejected a request that had passed its check")
                self._on_loop(partial(answer.fail, error))
                return
            handles.append(handle)
            self._running[handle.id] = _RunningJob(answer, index, job)

    def _cancel(self, handles: list[Handle]) -> None:
        for handle in handles:
            self._engine.cancel(handle)
            self._running.pop(handle.id, None)

    def _finish(self, handles: list[Handle], answer: Answer, error: Exception) -> None:
        """End the jobs of ``answer`` with what they have; the updates are sent by the next step."""
        if not any(handle.token_ids for handle in handles):
            self._on_loop(partial(answer.fail, error))
            return
        for handle in handles:
            self._engine.finish(handle)

    def _send(self, updates: list[Update]) -> None:
        """Send the results of a step, in a single call on the event loop."""
        now = time.perf_counter()
        results: list[tuple[Answer, int, Delta | RequestError]] = []
        for update in updates:
            running = self._running.get(update.handle.id)
            if running is None:  # cancelled
                continue
            if running.first_token_at is None and update.token_ids:
                running.first_token_at = now
            if update.finished:
                del self._running[update.handle.id]
                results.append((running.answer, running.index, self._last_result(running, update.handle, now)))
            elif running.job.streams and update.token_ids and now - running.last_sent_at >= self._stream_interval:
                running.last_sent_at = now
                results.append((running.answer, running.index, running.next_delta(update.handle)))
        if results:
            self._on_loop(partial(_deliver, results))

    def _last_result(self, running: _RunningJob, handle: Handle, now: float) -> Delta | RequestError:
        if handle.finish_reason == "stop" or handle.finish_reason == "length":
            first_token = (running.first_token_at or now) - running.started
            return running.next_delta(handle, handle.finish_reason, Timing(first_token, now - running.started))
        return self._client_error(handle)

    def _client_error(self, handle: Handle) -> RequestError:
        """Return the error for the client, without details of the server."""
        if isinstance(handle.exception, GrammarError):
            return RequestError(422, str(handle.exception))
        if isinstance(handle.exception, InvalidLogits):
            self._failure = str(handle.exception)
            return ModelFailedError(str(handle.exception))
        logger.error("a request failed", exc_info=handle.exception)
        return ModelFailedError("the model failed on this request; see the server's log")

    def _on_loop(self, action: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)


def _deliver(results: list[tuple[Answer, int, Delta | RequestError]]) -> None:
    for answer, index, result in results:
        if isinstance(result, RequestError):
            answer.fail(result)
        else:
            answer.put(index, result)
