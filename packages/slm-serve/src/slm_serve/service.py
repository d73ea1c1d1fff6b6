"""State shared by all routes: the backend and its loading, running answers, deadlines and shutdown."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from slm_serve.adapter_manager import AdapterManager
from slm_serve.admission import AdmissionControl
from slm_serve.backends.answer import Answer, Delta
from slm_serve.backends.loading import load_backend
from slm_serve.backends.protocol import Backend, Job
from slm_serve.backends.served_models import ServedModel
from slm_serve.errors import DeadlineError, RequestError, unknown_model
from slm_serve.metrics import Metrics
from slm_serve.settings import Settings

if TYPE_CHECKING:
    from slm_kv import Grammar

logger = logging.getLogger("slm_serve")
FINISH_SECONDS = 3  # that the backend gets to end open-ended texts after their deadline: it finishes its step first

LONG_TEXT = 20_000  # characters above which texts are tokenized on a thread instead of the event loop


class Service:
    """Loads a backend and gives requests access to it. All methods run on the event loop.

    Attributes:
        adapters: loads and unloads adapters.
        load_failure: why the backend could not be loaded, as one sentence.
        before_loading: called on the thread that loads the backend, before it does.
        on_load_failure: called when loading fails.
        waits_for_loading: whether ``stop`` waits for a backend that is still loading; if False, the caller must end
            the process afterwards, because the loading thread cannot be stopped.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(lambda: self._backend.load() if self._backend else None)
        self.load_failure: str | None = None
        self.before_loading: Callable[[], None] = lambda: None
        self.on_load_failure: Callable[[], None] = lambda: None
        self.waits_for_loading = True
        self.adapters = AdapterManager(settings, self._accepting_backend)
        self._admission = AdmissionControl(settings)
        self._backend: Backend | None = None
        self._loading: asyncio.Task[None] | None = None
        self._answers: set[Answer] = set()
        self._draining = False

    def start(self) -> None:
        """Start loading the backend in the background."""
        self._loading = asyncio.get_running_loop().create_task(self._load())

    async def stop(self) -> None:
        """Close the backend, which cancels all jobs and frees the model."""
        if self._loading and self.waits_for_loading:
            await asyncio.wait([self._loading])
        if self._backend:
            gc.unfreeze()  # so that closing can collect what was loaded; see _load
            await asyncio.to_thread(self._backend.close)

    @property
    def is_loading(self) -> bool:
        """Whether loading has neither succeeded nor failed yet."""
        return self._backend is None and self.load_failure is None

    async def wait_until_loaded(self) -> Backend | None:
        """Wait for the backend and return it; None if it could not be loaded."""
        if self._loading:
            await asyncio.wait([self._loading])
        return self._backend

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._backend = await _run_on_daemon_thread(lambda: self._load_backend(loop))
            # Garbage collection stops all threads, for 0.8 s if it looks at all that is loaded by now.
            gc.freeze()
        except ValueError as error:
            self.load_failure = str(error)
            self.on_load_failure()
        except Exception:
            logger.exception("the model could not be loaded")
            self.load_failure = "the model could not be loaded; see the log above"
            self.on_load_failure()

    def _load_backend(self, loop: asyncio.AbstractEventLoop) -> Backend:
        self.before_loading()
        return load_backend(self.settings, loop)

    @property
    def unavailable_reason(self) -> str | None:
        """Why no requests should be sent to this server; None while it is ready."""
        if self.load_failure or self._draining:
            return self.load_failure or "the server is stopping"
        return self._backend.failure if self._backend else "the model is loading"

    @property
    def backend(self) -> Backend:
        """The loaded backend. Raises RequestError 503 before it is loaded."""
        if self._backend is None:
            raise RequestError(
                503, self.load_failure or "the model is loading; try again soon", headers={"Retry-After": "5"}
            )
        return self._backend

    def _accepting_backend(self) -> Backend:
        """Return the backend. Raises RequestError 503 before it is loaded, and while the server is stopping."""
        if self._draining:
            raise _stopping_error()
        return self.backend

    def served_model(self, name: str | None) -> ServedModel:
        """Return the model served as ``name``, or the default for None.

        Raises RequestError 404 for an unknown name, and 422 for a base with another vocabulary than its adapters.
        """
        served = self.backend.served
        if name is None:
            name = next(iter(served))
        if name not in served:
            raise unknown_model(name, served)
        if name not in self.backend.tokenizers:
            raise RequestError(
                422,
                f"the adapters were trained with another vocabulary than {name!r}; serve it without them",
                param="model",
            )
        return served[name]

    async def tokenize(self, text: str, model: str, add_special_tokens: bool = True) -> tuple[int, ...]:
        """Return the token ids of ``text`` for ``model``, by default with its tokenizer's special tokens around it."""
        return (await self.tokenize_many([text], model, add_special_tokens))[0]

    async def tokenize_many(
        self, texts: Sequence[str], model: str, add_special_tokens: bool = True
    ) -> list[tuple[int, ...]]:
        """Return the token ids of each of several texts; on a thread if they are long together."""

        def tokenize() -> list[tuple[int, ...]]:
            return [self._tokenize(text, model, add_special_tokens) for text in texts]

        return await asyncio.to_thread(tokenize) if sum(map(len, texts)) > LONG_TEXT else tokenize()

    def _tokenize(self, text: str, model: str, add_special_tokens: bool) -> tuple[int, ...]:
        encoded = self.backend.tokenizers[model](text, add_special_tokens=add_special_tokens, verbose=False)
        return tuple(encoded["input_ids"])

    def check(self, job: Job) -> None:
        """Raise RequestError or KVError for a job that can never be run."""
        self._admission.check_limits(job)
        self.backend.check(job)

    async def compile_grammar(self, grammar: Grammar) -> None:
        """Compile a grammar on a thread, before jobs with it are submitted. Raises GrammarError."""
        await asyncio.to_thread(self.backend.compile_grammar, grammar)

    def submit(self, jobs: Sequence[Job]) -> Answer:
        """Queue ``jobs`` and return their answer, which the caller must finally pass to ``release``.

        Iterating over the answer raises RequestError when the request fails later, for example at its deadline.

        Raises RequestError or KVError for jobs that are rejected.
        """
        backend = self.backend
        if self._draining:
            raise _stopping_error()
        for job in jobs:
            self.check(job)
        unfinished = sum(answer.unfinished for answer in self._answers)
        self._admission.check_queue(len(jobs), unfinished, backend.max_sequences)
        for job in jobs:
            self.metrics.count_prompt(len(job.prompt_ids))
            if self.settings.log_prompts:
                logger.info("prompt: %r", backend.tokenizer.decode(list(job.prompt_ids), skip_special_tokens=True))
        answer = Answer(len(jobs), self._record, open_ended=all(job.open_ended for job in jobs))
        self._answers.add(answer)
        self._set_deadline(answer, self.settings.request_timeout)
        backend.submit(jobs, answer)
        return answer

    def release(self, answer: Answer) -> None:
        """Cancel the unfinished jobs of an answer and free their places in the queue. Idempotent."""
        self._answers.discard(answer)
        answer.close()

    def _record(self, index: int, delta: Delta, tokens: int) -> None:
        """Update metrics and log for a delta of the text ``index``, which now has ``tokens`` tokens."""
        if self.settings.log_prompts:
            logger.info("text %d: %r", index, delta.text)
        self.metrics.count_tokens(len(delta.token_ids))
        if delta.timing:
            self._admission.record(delta.timing.total)
            self.metrics.record_finished(delta, tokens)

    def drain(self) -> None:
        """Reject new requests; running and queued ones get ``drain_timeout`` seconds to finish."""
        if not self._draining:
            self._draining = True
            for answer in self._answers:
                self._set_deadline(answer, self.settings.drain_timeout)

    def abort(self) -> None:
        """Reject new requests, and fail running and queued ones with 503."""
        self._draining = True
        for answer in self._answers:
            answer.fail(_stopping_error())

    def _set_deadline(self, answer: Answer, seconds: float) -> None:
        """After ``seconds``, end the texts of an open-ended answer with what they have, and fail another one."""
        error = DeadlineError(seconds)
        if answer.open_ended:
            self._call_later(answer, seconds, answer.finish, error)
            seconds += FINISH_SECONDS
        self._call_later(answer, seconds, answer.fail, error)

    def _call_later(
        self, answer: Answer, seconds: float, action: Callable[[Exception], None], error: Exception
    ) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, action, error)
        answer.on_close.append(timer.cancel)


def _run_on_daemon_thread(load: Callable[[], Backend]) -> asyncio.Future[Backend]:
    """Run ``load`` on a daemon thread: at exit the interpreter would wait for a thread of ``asyncio.to_thread``."""
    loaded: Future[Backend] = Future()

    def run() -> None:
        loaded.set_running_or_notify_cancel()
        try:
            loaded.set_result(load())
        except BaseException as error:
            loaded.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return asyncio.wrap_future(loaded)


def _stopping_error() -> RequestError:
    return RequestError(503, "the server is stopping", headers={"Retry-After": "5"})
