"""vLLM's asynchronous engines as a backend.

vLLM 0.32 spawns processes, which import the main module again: a program that starts this backend must do so below
``if __name__ == "__main__":``.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import multiprocessing
import secrets
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, Self

from slm_adapters import hub_error_reason
from slm_serve.backends.answer import Answer, Timing
from slm_serve.backends.protocol import BackendKind, BackendLoad, Job
from slm_serve.backends.vllm.library import VLLMLibrary, import_vllm, set_cpu_threads, set_environment_defaults
from slm_serve.backends.vllm.outputs import OutputDecoder, TextPiece
from slm_serve.backends.vllm.plan import EnginePlan, ServingPlan, engine_arguments, format_summary, plan_serving
from slm_serve.backends.vllm.sampling import check_job, sampling_arguments
from slm_serve.errors import BackendStoppedError, ModelFailedError, RequestError, StartError
from slm_serve.settings import Settings

logger = logging.getLogger("slm_serve")
# Seconds that vLLM's processes get to exit. They need 8 to 10; by default vLLM 0.32 kills them after 5.
SHUTDOWN_TIMEOUT = 60


@dataclass
class _Route:
    """The engine and the LoRA for the requests of one model."""

    engine: Any  # AsyncLLM
    engine_number: int
    lora: Any = None  # LoRARequest


@dataclass
class _RunningJob:
    """A submitted job; ``whole_text`` collects the pieces of a job that does not stream."""

    answer: Answer
    index: int
    job: Job
    route: _Route
    decoder: OutputDecoder
    started: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None
    whole_text: TextPiece = field(default_factory=TextPiece)
    finished: bool = False


class VLLMBackend:
    """A Backend over one or more engines of vLLM; create it with ``start``.

    vLLM's frontends run on a separate thread with its own event loop. Other threads schedule calls on that loop, and
    results are sent to ``loop``, the server's.
    """

    def __init__(
        self, plan: ServingPlan, settings: Settings, vllm: VLLMLibrary, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.served, self.context_length = plan.served, plan.context_length
        self.tokenizer, self.tokenizers = plan.tokenizer, plan.tokenizers
        self.kind: BackendKind = "vllm"
        self.reason: str | None = None
        self.max_sequences = settings.max_sequences
        self.summary = format_summary(plan, settings, vllm.version, vllm.device)
        self._plan, self._settings, self._vllm, self._loop = plan, settings, vllm, loop
        # A copy: a fast tokenizer must not be used by two threads at once.
        self._thread_tokenizer = copy.deepcopy(plan.tokenizer)
        self._routes: dict[str, _Route] = {}
        self._running: dict[asyncio.Task[None], _RunningJob] = {}
        self._failure: str | None = None
        self._thread_loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="vllm", daemon=True)
        self._thread.start()
        started.result()

    @classmethod
    def start(cls, settings: Settings, loop: asyncio.AbstractEventLoop) -> Self:
        """Merge adapters where necessary and start the engines. Takes minutes; must not run on the thread of ``loop``.

        Raises ValueError, one sentence, for models that cannot be served, and StartError if vLLM is not installed.
        """
        set_environment_defaults()
        vllm = import_vllm()
        if settings.device not in (None, vllm.device):
            raise StartError(f"--device {settings.device}: this vLLM is built for {vllm.device}; install the other one")
        plan = plan_serving(settings)
        set_cpu_threads(settings.threads, len(plan.engines))
        return cls(plan, settings, vllm, loop)

    @property
    def failure(self) -> str | None:
        if self._failure is None and any(route.engine.errored for route in list(self._routes.values())):
            self._failure = "an engine of vLLM died; see the server's log"
        return self._failure

    def load(self) -> BackendLoad:
        """Return the load as counted here: vLLM does not report its queues or blocks."""
        per_engine = Counter(job.route.engine_number for job in list(self._running.values()))
        running = sum(min(count, self.max_sequences) for count in per_engine.values())
        return BackendLoad(running, per_engine.total() - running, 0, 0, 0)

    def check(self, job: Job) -> None:
        check_job(job, self.context_length, self._plan.vocabulary_size)

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        tasks: list[asyncio.Task[None]] = []
        answer.on_close.append(lambda: self._cancel(tasks))
        answer.on_finish = lambda error: self._finish_soon(tasks, answer, error)
        if not self._on_thread(lambda: tasks.extend(self._start_jobs(jobs, answer))):
            answer.fail(BackendStoppedError())

    def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        self._on_thread(lambda: [task.cancel() for task in tasks])

    def _finish_soon(self, tasks: list[asyncio.Task[None]], answer: Answer, error: Exception) -> None:
        if not self._on_thread(lambda: self._finish(tasks, answer, error)):
            answer.fail(error)

    def _finish(self, tasks: list[asyncio.Task[None]], answer: Answer, error: Exception) -> None:
        """Abort the unfinished jobs of ``answer`` in vLLM, and end their texts here."""
        # Jobs that are no longer in ``_running`` have finished, and have tokens.
        running = {task: self._running[task] for task in tasks if task in self._running}
        if len(running) == len(tasks) and all(job.first_token_at is None for job in running.values()):
            self._on_loop(partial(answer.fail, error))
            return
        for task, job in running.items():
            if not job.finished:
                task.cancel()
                self._send(job, job.decoder.finish())

    def close(self) -> None:
        self._on_thread(self._stopping.set)
        self._thread.join()

    def _on_thread(self, action: Callable[[], object]) -> bool:
        """Schedule ``action`` on the loop of vLLM's thread. Returns False if the thread has ended."""
        if self._thread_loop.is_closed():
            return False
        self._thread_loop.call_soon_threadsafe(action)
        return True

    def _on_loop(self, action: Callable[[], object]) -> None:
        """Schedule ``action`` on the server's loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)

    def _run(self, started: Future[None]) -> None:
        """Start the engines, serve until ``close``, and end vLLM's processes."""
        resource_tracker.ensure_running()  # before the mask: starting it would unblock the signal on this thread
        # Ctrl-C in a terminal signals all processes. vLLM's inherit this mask, so that only `_end` ends them, in order.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._thread_loop) as runner:
                runner.run(self._serve(started))
        except BaseException as raised:
            error = raised
        gc.collect()  # vLLM's objects shut down again when they are deleted: here, not while the interpreter exits
        multiprocessing.active_children()  # joins vLLM's processes that have ended, which vLLM does not do
        if error and started.done():
            logger.error("the vLLM backend failed", exc_info=error)
            self._failure = "the vLLM backend failed; see the server's log"
        elif error:
            started.set_exception(error)

    async def _serve(self, started: Future[None]) -> None:
        try:
            for number, engine_plan in enumerate(self._plan.engines):
                await self._start_engine(number, engine_plan)
            started.set_result(None)
            await self._stopping.wait()
        finally:
            await self._end()

    async def _start_engine(self, number: int, engine_plan: EnginePlan) -> None:
        """Start an engine and load its LoRA adapters, so that a broken adapter is reported at start-up."""
        vllm, arguments = self._vllm, engine_arguments(self._plan, engine_plan, self._settings, self._vllm.device)
        name = engine_plan.model
        try:
            engine = vllm.engine.from_engine_args(vllm.engine_args(**arguments))
            self._routes[name] = _Route(engine, number)
            await self._warm_up(self._routes[name])
            for lora_id, (name, folder) in enumerate(engine_plan.loras.items(), start=1):
                self._routes[name] = _Route(engine, number, vllm.lora_request(name, lora_id, folder))
                await engine.add_lora(self._routes[name].lora)
                await self._warm_up(self._routes[name])
        except Exception as error:
            logger.exception("vLLM did not start")
            reason = hub_error_reason(error)
            raise StartError(f"vLLM cannot serve {name!r}: {reason}; see vLLM's log above") from error

    async def _warm_up(self, route: _Route) -> None:
        """Generate one token: the first one takes seconds, and a model that fails is reported at start-up."""
        params = self._vllm.sampling_params(temperature=0.0, max_tokens=1, detokenize=False)
        prompt = self._vllm.tokens_input([0])
        async for _ in route.engine.generate(prompt, params, "warm-up", lora_request=route.lora):
            pass

    def _start_jobs(self, jobs: Sequence[Job], answer: Answer) -> list[asyncio.Task[None]]:
        if self._stopping.is_set():
            self._on_loop(partial(answer.fail, BackendStoppedError()))
            return []
        running = [self._running_job(answer, index, job) for index, job in enumerate(jobs)]
        tasks = {self._thread_loop.create_task(self._run_job(job)): job for job in running}
        self._running |= tasks
        for task in tasks:
            task.add_done_callback(self._running.pop)
        return list(tasks)

    def _running_job(self, answer: Answer, index: int, job: Job) -> _RunningJob:
        decoder = OutputDecoder(job, self._plan.eos_token_ids, self._thread_tokenizer)
        return _RunningJob(answer, index, job, self._routes[job.model], decoder)

    async def _run_job(self, running: _RunningJob) -> None:
        try:
            await self._generate(running)
        except self._vllm.engine_dead_error:
            logger.exception("an engine of vLLM died")
            self._failure = "an engine of vLLM died; see the server's log"
            self._on_loop(partial(running.answer.fail, BackendStoppedError()))
        except RequestError as error:
            self._on_loop(partial(running.answer.fail, error))
        except Exception:
            logger.exception("a request failed in vLLM")
            failure = ModelFailedError("the model failed on this request; see the server's log")
            self._on_loop(partial(running.answer.fail, failure))

    async def _generate(self, running: _RunningJob) -> None:
        """Send the pieces of one text. Leaving early, or being cancelled, aborts the request in vLLM."""
        vllm, job = self._vllm, running.job
        arguments = sampling_arguments(job.params, self._plan.eos_token_ids, self._plan.vocabulary_size)
        params = vllm.sampling_params(**arguments, output_kind=vllm.delta_output)
        prompt, request_id = vllm.tokens_input(list(job.prompt_ids)), secrets.token_hex(8)
        stream = running.route.engine.generate(prompt, params, request_id, lora_request=running.route.lora)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                piece = running.decoder.decode(output)
                self._send(running, piece)
                if piece.finish_reason:
                    return
        raise ModelFailedError("vLLM ended this text without a finish reason")

    def _send(self, running: _RunningJob, piece: TextPiece) -> None:
        now = time.perf_counter()
        if running.first_token_at is None and piece.token_ids:
            running.first_token_at = now
        if not running.job.streams:
            running.whole_text.append(piece)
            piece = running.whole_text
        if piece.finish_reason:
            running.finished = True
            timing = Timing((running.first_token_at or now) - running.started, now - running.started)
            self._on_loop(partial(running.answer.put, running.index, piece.to_delta(timing)))
        elif running.job.streams and (piece.text or piece.token_ids or piece.prompt_logprobs):
            self._on_loop(partial(running.answer.put, running.index, piece.to_delta()))

    async def _end(self) -> None:
        """Cancel all jobs, fail their answers, and shut down all engines."""
        self._stopping.set()
        running = dict(self._running)
        for task, job in running.items():
            task.cancel()
            self._on_loop(partial(job.answer.fail, BackendStoppedError()))
        await asyncio.gather(*running, return_exceptions=True)
        engines = {route.engine_number: route.engine for route in self._routes.values()}
        self._routes = {}
        if engines:
            # In parallel, on threads. This loop is blocked meanwhile: vLLM's tasks on it must not run while its
            # processes end.
            with ThreadPoolExecutor(len(engines)) as threads:
                list(threads.map(lambda engine: engine.shutdown(timeout=SHUTDOWN_TIMEOUT), engines.values()))
