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
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_kv import Grammar, GrammarError, Handle, InvalidLogits, TextEngine, Update
from slm_serve.backends.answer import Answer, Delta, FinishReason, Timing
from slm_serve.backends.engine_adapters import EngineAdapters
from slm_serve.backends.protocol import BackendKind, BackendLoad, Job
from slm_serve.backends.running_jobs import RunningJob, ServerLoop
from slm_serve.backends.served_models import ServedModel
from slm_serve.errors import BackendStoppedError, ModelFailedError, RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slm_adapters import AdapterLoader

logger = logging.getLogger("slm_serve")
Action = Callable[[], None]


@dataclass
class _EngineJob(RunningJob):
    """A running job, and how much of its handle has been sent to its answer."""

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
            None if handle.embedding is None else tuple(handle.embedding.tolist()),
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
        loader: loads further adapters.
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
        loader: AdapterLoader | None = None,
    ) -> None:
        assert engine.tokenizer is not None, "a server needs a tokenizer"
        # A copy: a fast tokenizer must not be used by two threads at once, and the engine decodes on its own.
        self.tokenizer = copy.deepcopy(engine.tokenizer)
        own = {name: self.tokenizer if each is engine.tokenizer else each for name, each in tokenizers.items()}
        self._adapters = EngineAdapters(engine, dict(served), dict(adapters), own, loader)
        self.served: Mapping[str, ServedModel] = self._adapters.served
        self.tokenizers: Mapping[str, PreTrainedTokenizerBase] = self._adapters.tokenizers
        self.context_length = engine.context_limits.tokens
        self.max_sequences, self.summary = engine.max_sequences, summary or engine.summary
        self.kind: BackendKind = "engine" if engine.kind == "paged" else engine.kind
        self.reason = engine.reason
        engine.prepare_grammars()  # while the model is loading: later it would block the event loop
        self._engine, self._server = engine, ServerLoop(loop)
        self._stream_interval = stream_interval
        self._inbox: queue.SimpleQueue[Action | None] = queue.SimpleQueue()  # None: stop
        self._running: dict[int, _EngineJob] = {}  # by the id of the handle
        self._failure: str | None = None
        self._ended = False  # the engine takes no more steps
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        return self._failure

    def load(self) -> BackendLoad:
        load = self._engine.load()
        pages = (load.pages_used, load.pages, load.preemptions)
        return BackendLoad(load.running, load.waiting, *pages, load.drafted_tokens, load.accepted_tokens)

    def check(self, job: Job) -> None:
        adapter = self._adapters.engine_name(job.model)
        if job.embeds:
            self._engine.check_embedding(job.prompt_ids, adapter=adapter)
        else:
            self._engine.check(job.prompt_ids, job.params, adapter=adapter)

    def compile_grammar(self, grammar: Grammar) -> None:
        self._engine.compile_grammar(grammar)

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        handles: list[Handle] = []
        adapters = [self._adapters.engine_name(job.model) for job in jobs]  # now: the names may change
        answer.on_close.append(lambda: self._inbox.put(lambda: self._cancel(handles)))
        answer.on_finish = lambda error: self._inbox.put(lambda: self._finish(handles, answer, error))
        self._inbox.put(lambda: self._start(jobs, adapters, answer, handles))

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()

    async def load_adapter(self, name: str, folder: Path) -> None:
        await self._adapters.load(name, folder, self._on_engine)

    async def unload_adapter(self, name: str) -> None:
        await self._adapters.unload(name, self._on_engine)

    async def _on_engine(self, action: Callable[[], Any]) -> Any:
        """Run ``action`` on the engine's thread between two steps, and return its result."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._inbox.put(lambda: self._run_for(future, action))
        return await future

    def _run_for(self, future: asyncio.Future[Any], action: Callable[[], Any]) -> None:
        try:
            if self._ended:
                raise BackendStoppedError
            result = action()
        except Exception as error:
            self._server.call(partial(_set_unless_done, future.set_exception, future, error))
        else:
            self._server.call(partial(_set_unless_done, future.set_result, future, result))

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
        while not self._inbox.empty():
            if action := self._inbox.get():
                action()
        self._engine.close(restore=False)

    def _end(self) -> None:
        """Take no more steps and fail the jobs that are still running."""
        self._ended = True
        running, self._running = self._running, {}
        for job in running.values():
            self._server.call(partial(job.answer.fail, BackendStoppedError()))

    def _process_inbox(self) -> bool:
        """Run all actions of the inbox; block while there is nothing to compute. Returns False after ``close``."""
        while self._ended or not self._engine.busy or not self._inbox.empty():
            action = self._inbox.get()
            if action is None:
                return False
            action()
        return True

    def _start(self, jobs: Sequence[Job], adapters: Sequence[str], answer: Answer, handles: list[Handle]) -> None:
        if self._ended:
            self._server.call(partial(answer.fail, BackendStoppedError()))
            return
        for index, (job, adapter) in enumerate(zip(jobs, adapters, strict=True)):
            try:
                handle = self._submit_to_engine(job, adapter)
            except Exception as error:  # `check` accepted the job, so this is a bug in `check` or `submit`
                logger.exception("the engine rejected a request that had passed its check")
                self._server.call(partial(answer.fail, error))
                return
            handles.append(handle)
            self._running[handle.id] = _EngineJob(answer, index, job)

    def _submit_to_engine(self, job: Job, adapter: str) -> Handle:
        if job.embeds:
            return self._engine.submit_embedding(job.prompt_ids, adapter=adapter)
        return self._engine.submit(job.prompt_ids, job.params, adapter=adapter, use_cache=job.use_cache)

    def _cancel(self, handles: list[Handle]) -> None:
        for handle in handles:
            self._engine.cancel(handle)
            self._running.pop(handle.id, None)

    def _finish(self, handles: list[Handle], answer: Answer, error: Exception) -> None:
        """End the jobs of ``answer`` with what they have; the updates are sent by the next step."""
        if not any(handle.token_ids for handle in handles):
            self._server.call(partial(answer.fail, error))
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
            running.note_tokens(now, len(update.token_ids))
            if update.finished:
                del self._running[update.handle.id]
                results.append((running.answer, running.index, self._last_result(running, update.handle, now)))
            elif running.job.streams and update.token_ids and now - running.last_sent_at >= self._stream_interval:
                running.last_sent_at = now
                results.append((running.answer, running.index, running.next_delta(update.handle)))
        if results:
            self._server.call(partial(_deliver, results))

    def _last_result(self, running: _EngineJob, handle: Handle, now: float) -> Delta | RequestError:
        if handle.finish_reason == "stop" or handle.finish_reason == "length":
            return running.next_delta(handle, handle.finish_reason, running.timing(now))
        return self._client_error(running.answer, handle)

    def _client_error(self, answer: Answer, handle: Handle) -> RequestError:
        """Return the error for the client, without details of the server."""
        if isinstance(handle.exception, GrammarError):
            return RequestError(422, str(handle.exception))
        if isinstance(handle.exception, InvalidLogits):
            self._failure = str(handle.exception)
            return ModelFailedError(str(handle.exception))
        answer.context.run(logger.error, "a request failed", exc_info=handle.exception)
        return ModelFailedError("the model failed on this request; see the server's log")


def _deliver(results: list[tuple[Answer, int, Delta | RequestError]]) -> None:
    for answer, index, result in results:
        if isinstance(result, RequestError):
            answer.fail(result)
        else:
            answer.put(index, result)


def _set_unless_done(setter: Callable[[Any], None], future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        setter(value)
