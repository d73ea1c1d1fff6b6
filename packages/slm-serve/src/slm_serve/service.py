"""What all routes share: the backend, who may come in, how long they may take."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from slm_serve.backends.answer import Answer, Delta
from slm_serve.backends.loading import load_backend
from slm_serve.backends.protocol import Backend, Job, Served
from slm_serve.errors import ServeError, TooLate
from slm_serve.metrics import Metrics
from slm_serve.settings import Settings

logger = logging.getLogger("slm_serve")
LONG = 20_000  # characters from which a text is tokenized off the event loop
USUAL_SECONDS = 2.0  # that a request takes, before any was seen
OF_THE_NEW = 0.1  # weight of the last request in the usual time


class Service:
    """Loads a backend, and lets requests through to it. Everything but ``load_backend`` is on the event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics(lambda: self._backend.load() if self._backend else None)
        self.failure: str | None = None  # why loading ended without a backend
        self.on_failure: Callable[[], None] = lambda: None
        self.waits_for_loading = True  # at its end; if not, whoever runs it has to end the process at once
        self._backend: Backend | None = None
        self._loading: asyncio.Task[None] | None = None
        self._answers: set[Answer] = set()
        self._draining = False
        self._seconds = USUAL_SECONDS

    def start(self) -> None:
        """Load in the background."""
        self._loading = asyncio.get_running_loop().create_task(self._load())

    async def stop(self) -> None:
        """End what runs, and free the model."""
        if self._loading and self.waits_for_loading:
            await asyncio.wait([self._loading])
        if self._backend:
            await asyncio.to_thread(self._backend.close)

    @property
    def is_loading(self) -> bool:
        """Whether it is not known yet how loading ends."""
        return self._backend is None and self.failure is None

    async def loaded(self) -> Backend | None:
        """The backend once it is there; None where it could not be loaded."""
        if self._loading:
            await asyncio.wait([self._loading])
        return self._backend

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._backend = await _in_a_daemon(lambda: load_backend(self.settings, loop))
        except ValueError as mistake:
            self.failure = str(mistake)
            self.on_failure()
        except Exception:
            logger.exception("the model could not be loaded")
            self.failure = "the model could not be loaded; the log says how"
            self.on_failure()

    @property
    def trouble(self) -> str | None:
        """Why no requests should be sent here; None while all is well."""
        if self.failure or self._draining:
            return self.failure or "the server is stopping"
        return self._backend.trouble if self._backend else "the model is loading"

    @property
    def backend(self) -> Backend:
        """Raises ServeError 503 while there is none."""
        if self._backend is None:
            raise ServeError(503, self.failure or "the model is loading; try again soon", headers={"Retry-After": "5"})
        return self._backend

    def model(self, name: str | None) -> Served:
        """What is served as ``name``; the default for None. Raises ServeError 404."""
        served = self.backend.served
        if name is None:
            return next(iter(served.values()))
        if name not in served:
            known = ", ".join(served)
            raise ServeError(
                404, f"no model is called {name!r}; there are: {known}", param="model", code="model_not_found"
            )
        return served[name]

    async def tokens(self, text: str, special: bool = True) -> tuple[int, ...]:
        """Token ids of ``text``; with ``special``, what the tokenizer adds around it."""
        if len(text) > LONG:
            return await asyncio.to_thread(self._tokens, text, special)
        return self._tokens(text, special)

    def _tokens(self, text: str, special: bool) -> tuple[int, ...]:
        return tuple(self.backend.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    @property
    def capacity(self) -> int:
        """Texts that may run or wait at once."""
        return self.backend.max_sequences + self.settings.max_queue

    def open(self, jobs: Sequence[Job]) -> Answer:
        """Start ``jobs``. Whoever iterates over the answer gets their pieces as they come, or a ServeError, and closes
        it by ``close``.

        Raises ServeError: 503 while loading or stopping, 422 for more than this server gives, 429 for a full queue; and
        KVError for what can never be answered.
        """
        backend = self.backend
        if self._draining:
            raise stopping()
        for job in jobs:
            self._check(backend, job)
        self._admit(len(jobs))
        for job in jobs:
            self.metrics.prompt(len(job.prompt_ids))
            if self.settings.log_prompts:
                logger.info("prompt: %r", backend.tokenizer.decode(list(job.prompt_ids), skip_special_tokens=True))
        answer = Answer(len(jobs), self._seen)
        self._answers.add(answer)
        self._expire(answer, self.settings.request_timeout)
        backend.submit(jobs, answer)
        return answer

    def close(self, answer: Answer) -> None:
        """End what still runs of it, and let others in. Again, it does nothing."""
        self._answers.discard(answer)
        answer.close()

    def _seen(self, index: int, delta: Delta, tokens: int) -> None:
        """``delta`` came for a text that has ``tokens`` tokens now."""
        if self.settings.log_prompts:
            logger.info("text %d: %r", index, delta.text)
        self.metrics.tokens(len(delta.token_ids))
        if delta.timing:
            self._seconds += OF_THE_NEW * (delta.timing.total - self._seconds)
            self.metrics.finished(delta, tokens)

    def drain(self) -> None:
        """Let nothing new in; what runs has ``drain_timeout`` seconds."""
        if not self._draining:
            self._draining = True
            for answer in self._answers:
                self._expire(answer, self.settings.drain_timeout)

    def drop(self) -> None:
        """Answer all that runs and waits with 503, now."""
        self._draining = True
        for answer in self._answers:
            answer.fail(stopping())

    def _check(self, backend: Backend, job: Job) -> None:
        settings, prompt, new = self.settings, len(job.prompt_ids), job.params.max_new_tokens
        if settings.max_prompt_tokens and prompt > settings.max_prompt_tokens:
            most = settings.max_prompt_tokens
            raise ServeError(422, f"the prompt has {prompt} tokens and this server takes {most}; shorten it")
        if settings.max_new_tokens and new > settings.max_new_tokens:
            raise ServeError(422, f"{new} new tokens are asked for and this server gives {settings.max_new_tokens}")
        backend.check(job)

    def _admit(self, jobs: int) -> None:
        if jobs > self.capacity:
            raise ServeError(
                422, f"{jobs} texts are asked for and this server takes {self.capacity} at once; ask for fewer"
            )
        inside = sum(answer.unfinished for answer in self._answers)
        if inside + jobs > self.capacity:
            turns = inside / self.backend.max_sequences
            seconds = min(max(math.ceil(self._seconds * turns), 1), 60)
            raise ServeError(
                429,
                f"the queue is full; try again in {seconds} s",
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )

    def _expire(self, answer: Answer, seconds: float) -> None:
        timer = asyncio.get_running_loop().call_later(seconds, answer.fail, TooLate(seconds))
        answer.on_close.append(timer.cancel)


def _in_a_daemon(load: Callable[[], Backend]) -> asyncio.Future[Backend]:
    """What ``load`` returns or raises, from a thread that nobody waits for as the process ends, other than those of
    ``asyncio.to_thread``."""
    loaded: Future[Backend] = Future()

    def work() -> None:
        loaded.set_running_or_notify_cancel()
        try:
            loaded.set_result(load())
        except BaseException as failed:
            loaded.set_exception(failed)

    threading.Thread(target=work, name="loading", daemon=True).start()
    return asyncio.wrap_future(loaded)


def stopping() -> ServeError:
    """What is told to whoever comes, or is dropped, while the server ends."""
    return ServeError(503, "the server is stopping", headers={"Retry-After": "5"})
