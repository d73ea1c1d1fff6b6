"""The engine of slm-kv as a backend: it has a thread of its own, and the event loop never waits for it."""

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

from slm_kv import BASE_ADAPTER as BASE
from slm_kv import Engine, Handle, Update
from slm_kv import InvalidLogits as BadLogits
from slm_serve.backends.answer import Answer, Delta, Ending, Timing
from slm_serve.backends.protocol import Job, Load, Served
from slm_serve.errors import ModelFailed, ServeError

logger = logging.getLogger("slm_serve")
Action = Callable[[], None]


@dataclass
class _Run:
    """A job under way: how much of its handle was passed on."""

    answer: Answer
    index: int
    job: Job
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    passed: float = -math.inf  # when a piece was
    characters: int = 0
    tokens: int = 0
    prompt_rows: int = 0


class EngineBackend:
    """``served`` by name, and what the engine calls the adapter of each in ``adapters``; the base is in neither.
    ``interval``: seconds between two pieces of a stream, at least.

    The engine lives on its thread: other threads only leave actions for it between two steps.
    """

    def __init__(
        self,
        engine: Engine,
        served: Mapping[str, Served],
        adapters: Mapping[str, str],
        loop: asyncio.AbstractEventLoop,
        summary: str = "",
        interval: float = 0,
    ) -> None:
        assert engine.tokenizer is not None, "a server answers texts"
        self.served, self.tokenizer, self.positions = served, copy.deepcopy(engine.tokenizer), engine.room.tokens
        self.max_sequences, self.summary = engine.scheduler.max_sequences, summary or engine.summary
        self._engine, self._adapters, self._loop, self._interval = engine, adapters, loop, interval
        self._inbox: queue.SimpleQueue[Action | None] = queue.SimpleQueue()
        self._runs: dict[int, _Run] = {}
        self._trouble: str | None = None
        self._ended = False  # the engine takes no more steps
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        return self._trouble

    def load(self) -> Load:
        scheduler, pool = self._engine.scheduler, self._engine.pool
        running = len(scheduler.running)
        return Load(running, len(self._runs) - running, pool.used_pages, pool.max_pages, scheduler.preemptions)

    def check(self, job: Job) -> None:
        self._engine.check(job.prompt_ids, job.params, adapter=self._adapters.get(job.model, BASE))

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        handles: list[Handle] = []
        answer.on_close.append(lambda: self._inbox.put(lambda: self._cancel(handles)))
        self._inbox.put(lambda: self._start(jobs, answer, handles))

    def close(self) -> None:
        self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        """The engine's thread: what others left, then a step, until it is told to stop."""
        while self._act():
            try:
                updates = self._engine.step()
            except Exception:
                logger.exception("the engine failed; restart the server")
                self._trouble = "the engine failed; the server's log says how"
                self._end()
            else:
                self._pass_on(updates)
        self._end()
        self._engine.close()

    def _end(self) -> None:
        """Take no more steps, and say so to whoever waits for one."""
        self._ended = True
        runs, self._runs = self._runs, {}
        for run in runs.values():
            self._on_loop(partial(run.answer.fail, gone()))

    def _act(self) -> bool:
        """Do what waits in the inbox; with nothing to compute, wait for it. False when told to stop."""
        while self._ended or not self._engine.busy or not self._inbox.empty():
            action = self._inbox.get()
            if action is None:
                return False
            action()
        return True

    def _start(self, jobs: Sequence[Job], answer: Answer, handles: list[Handle]) -> None:
        if self._ended:
            self._on_loop(partial(answer.fail, gone()))
            return
        for index, job in enumerate(jobs):
            try:
                adapter = self._adapters.get(job.model, BASE)
                handle = self._engine.submit(job.prompt_ids, job.params, adapter=adapter, use_cache=job.use_cache)
            except Exception as refused:  # what `check` lets through is not refused, unless one of the two errs
                logger.exception("a checked request was refused")
                self._on_loop(partial(answer.fail, refused))
                return
            handles.append(handle)
            self._runs[handle.id] = _Run(answer, index, job)

    def _cancel(self, handles: list[Handle]) -> None:
        for handle in handles:
            self._engine.cancel(handle)
            self._runs.pop(handle.id, None)

    def _pass_on(self, updates: list[Update]) -> None:
        """All that a step added, in one call on the event loop."""
        now = time.perf_counter()
        given: list[tuple[Answer, int, Delta | ServeError]] = []
        for update in updates:
            run = self._runs.get(update.handle.id)
            if run is None:
                continue
            if run.first is None and update.token_ids:
                run.first = now
            if update.finished:
                del self._runs[update.handle.id]
                given.append((run.answer, run.index, self._last(run, update.handle, now)))
            elif run.job.streams and update.token_ids and now - run.passed >= self._interval:
                run.passed = now
                given.append((run.answer, run.index, _delta(run, update.handle)))
        if given:
            self._on_loop(partial(_give, given))

    def _last(self, run: _Run, handle: Handle, now: float) -> Delta | ServeError:
        if handle.finish_reason == "stop" or handle.finish_reason == "length":
            first = (run.first or now) - run.started
            return _delta(run, handle, handle.finish_reason, Timing(first, now - run.started))
        return self._failure(handle)

    def _failure(self, handle: Handle) -> ServeError:
        """What a client is told: nothing of the server's insides but that the model is at fault."""
        if isinstance(handle.exception, BadLogits):
            self._trouble = str(handle.exception)
            return ModelFailed(str(handle.exception))
        logger.error("a request failed", exc_info=handle.exception)
        return ModelFailed("the model failed on this request; the server's log says how")

    def _on_loop(self, action: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)


def gone() -> ServeError:
    """What is told to those that a stopped engine leaves behind."""
    return ServeError(503, "the server stopped before this was finished")


def _give(given: list[tuple[Answer, int, Delta | ServeError]]) -> None:
    for answer, index, item in given:
        if isinstance(item, ServeError):
            answer.fail(item)
        else:
            answer.put(index, item)


def _delta(run: _Run, handle: Handle, reason: Ending | None = None, timing: Timing | None = None) -> Delta:
    """What came since the last piece."""
    characters, tokens, rows = run.characters, run.tokens, run.prompt_rows
    run.characters = len(handle.text)
    run.tokens, run.prompt_rows = len(handle.token_ids), len(handle.prompt_logprobs)
    return Delta(
        handle.text[characters:],
        tuple(handle.token_ids[tokens:]),
        tuple(handle.logprobs[tokens:]),
        tuple(handle.prompt_logprobs[rows:]),
        reason,
        timing,
    )
