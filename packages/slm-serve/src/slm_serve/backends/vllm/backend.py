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
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Self, TypeVar

from transformers import PreTrainedTokenizerBase

from slm_kv import Grammar, GrammarCompiler
from slm_serve.backends.answer import Answer
from slm_serve.backends.protocol import BackendKind, BackendLoad, Job
from slm_serve.backends.running_jobs import ServerLoop
from slm_serve.backends.served_models import ServedModel
from slm_serve.backends.vllm.jobs import VLLMJob
from slm_serve.backends.vllm.library import VLLMLibrary, import_vllm, set_cpu_threads, set_environment_defaults
from slm_serve.backends.vllm.outputs import OutputDecoder, TextPiece
from slm_serve.backends.vllm.plan import ServingPlan, format_summary, plan_serving, tokenizer_folder
from slm_serve.backends.vllm.routes import Route, Routes
from slm_serve.backends.vllm.sampling import check_job, sampling_arguments
from slm_serve.errors import BackendStoppedError, ModelFailedError, RequestError, StartError
from slm_serve.settings import Settings

T = TypeVar("T")
logger = logging.getLogger("slm_serve")
# Seconds that vLLM's processes get to exit. They need 8 to 10; by default vLLM 0.32 kills them after 5.
SHUTDOWN_TIMEOUT = 60


class VLLMBackend:
    """A Backend over one or more engines of vLLM; create it with ``start``.

    vLLM's frontends run on a separate thread with its own event loop. Other threads schedule calls on that loop, and
    results are sent to ``loop``, the server's.
    """

    def __init__(self, plan: ServingPlan, vllm: VLLMLibrary, loop: asyncio.AbstractEventLoop) -> None:
        self._served, self._tokenizers = dict(plan.served), dict(plan.tokenizers)
        self.served: Mapping[str, ServedModel] = self._served
        self.tokenizer = plan.tokenizer
        self.tokenizers: Mapping[str, PreTrainedTokenizerBase] = self._tokenizers
        self.kind: BackendKind = "vllm"
        self.reason: str | None = None
        self.summary = format_summary(plan, vllm.version, vllm.device)
        self._plan, self._vllm, self._server = plan, vllm, ServerLoop(loop)
        # A copy: a fast tokenizer must not be used by two threads at once.
        self._thread_tokenizer = copy.deepcopy(plan.tokenizer)
        self._grammars = GrammarCompiler(
            copy.deepcopy(plan.tokenizer) if tokenizer_folder(plan) else None, plan.vocabulary_size
        )
        self._routes = Routes(plan, vllm)
        self._removals: set[asyncio.Task[None]] = set()  # the loop itself holds weak references only
        self._running: dict[asyncio.Task[None], VLLMJob] = {}
        self._failure: str | None = None
        self._thread_loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="vllm", daemon=True)
        self._thread.start()
        started.result()
        limits = [vllm.limits(engine) for engine in self._routes.engines.values()]
        self.context_length = plan.sizes.context_length or min(each.context_length for each in limits)
        self.max_sequences = plan.sizes.max_sequences or min(each.max_sequences for each in limits)

    @classmethod
    def start(cls, settings: Settings, loop: asyncio.AbstractEventLoop) -> Self:
        """Merge adapters where necessary and start the engines. Takes minutes; must not run on the thread of ``loop``.

        Raises ValueError, one sentence, for models that cannot be served, and StartError if vLLM is not installed.
        """
        set_environment_defaults()
        vllm = import_vllm()
        if settings.device not in (None, vllm.device):
            raise StartError(f"--device {settings.device}: this vLLM is built for {vllm.device}; install the other one")
        plan = plan_serving(settings, vllm.device)
        set_cpu_threads(settings.threads, len(plan.engines))
        return cls(plan, vllm, loop)

    @property
    def failure(self) -> str | None:
        if self._failure is None and any(engine.errored for engine in self._routes.engines.values()):
            self._failure = "an engine of vLLM died; see the server's log"
        return self._failure

    def load(self) -> BackendLoad:
        """Return the load as counted here: vLLM does not report its queues or blocks."""
        per_engine = Counter(job.route.engine_number for job in list(self._running.values()))
        running = sum(min(count, self.max_sequences) for count in per_engine.values())
        return BackendLoad(running, per_engine.total() - running, 0, 0, 0)

    def compile_grammar(self, grammar: Grammar) -> None:
        self._grammars.compile(grammar)  # with the library that vLLM itself uses

    def check(self, job: Job) -> None:
        self._routes.of(job.model)
        check_job(job, self.context_length, self._plan.vocabulary_size)

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        if self._stopping.is_set():
            answer.fail(BackendStoppedError())
            return
        tasks: list[asyncio.Task[None]] = []
        routes = [self._routes.of(job.model) for job in jobs]  # now: the models may change
        answer.on_close.append(lambda: self._cancel(tasks))
        answer.on_finish = lambda error: self._finish_soon(tasks, answer, error)
        if not self._on_thread(lambda: tasks.extend(self._start_jobs(jobs, routes, answer))):
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
            self._server.call(partial(answer.fail, error))
            return
        for task, job in running.items():
            if not job.finished:
                task.cancel()
                self._send(job, job.decoder.finish())

    async def load_adapter(self, name: str, folder: Path) -> None:
        self._routes.check_removable(name)
        adapter = await asyncio.to_thread(self._plan.loader.read, folder)
        self._routes.check_loadable(adapter)
        route = await self._run_on_thread(self._routes.add_lora(name, adapter))
        base = next(model.name for model in self.served.values() if model.kind == "base")
        self._served[name] = ServedModel(name, "adapter", base, "unmerged")
        self._tokenizers[name] = adapter.tokenizer or self.tokenizers[base]
        await self._retire(self._routes.replace(name, route))

    async def unload_adapter(self, name: str) -> None:
        self._routes.check_removable(name)
        del self._served[name]
        self._tokenizers.pop(name, None)
        await self._retire(self._routes.replace(name, None))

    async def _retire(self, route: Route | None) -> None:
        if route:
            await self._run_on_thread(self._routes.retire(route))

    async def _run_on_thread(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` on the loop of vLLM's thread and return its result. Raises BackendStoppedError."""
        if self._stopping.is_set() or self._thread_loop.is_closed():
            work.close()
            raise BackendStoppedError
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._thread_loop))

    def close(self) -> None:
        self._on_thread(self._stopping.set)
        self._thread.join()

    def _on_thread(self, action: Callable[[], object]) -> bool:
        """Schedule ``action`` on the loop of vLLM's thread. Returns False if the thread has ended."""
        if self._thread_loop.is_closed():
            return False
        self._thread_loop.call_soon_threadsafe(action)
        return True

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
                await self._routes.start_engine(number, engine_plan)
            started.set_result(None)
            await self._stopping.wait()
        finally:
            await self._end()

    def _start_jobs(self, jobs: Sequence[Job], routes: Sequence[Route], answer: Answer) -> list[asyncio.Task[None]]:
        if self._stopping.is_set():
            self._server.call(partial(answer.fail, BackendStoppedError()))
            return []
        running = [
            VLLMJob(answer, index, job, route=route, decoder=OutputDecoder(job, route.end_ids, self._thread_tokenizer))
            for index, (job, route) in enumerate(zip(jobs, routes, strict=True))
        ]
        tasks = {self._thread_loop.create_task(self._run_job(job)): job for job in running}
        self._running |= tasks
        for task, job in tasks.items():
            job.route.running += 1
            task.add_done_callback(self._forget)
        return list(tasks)

    def _forget(self, task: asyncio.Task[None]) -> None:
        """Called when a job has ended: the LoRA of a model that was unloaded is removed after its last job."""
        route = self._running.pop(task).route
        route.running -= 1
        if route.is_retired:
            self._removals.add(removal := self._thread_loop.create_task(self._routes.retire(route)))
            removal.add_done_callback(self._removals.discard)

    async def _run_job(self, running: VLLMJob) -> None:
        try:
            await self._generate(running)
        except self._vllm.engine_dead_error:
            logger.exception("an engine of vLLM died")
            self._failure = "an engine of vLLM died; see the server's log"
            self._server.call(partial(running.answer.fail, BackendStoppedError()))
        except RequestError as error:
            self._server.call(partial(running.answer.fail, error))
        except Exception:
            logger.exception("a request failed in vLLM")
            failure = ModelFailedError("the model failed on this request; see the server's log")
            self._server.call(partial(running.answer.fail, failure))

    async def _generate(self, running: VLLMJob) -> None:
        """Send the pieces of one text. Leaving early, or being cancelled, aborts the request in vLLM."""
        vllm, job = self._vllm, running.job
        arguments = sampling_arguments(job.params, running.route.end_ids, self._plan.vocabulary_size)
        params = vllm.job_params(**arguments)
        prompt, request_id = vllm.tokens_input(list(job.prompt_ids)), secrets.token_hex(8)
        stream = running.route.engine.generate(prompt, params, request_id, lora_request=running.route.lora)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                piece = running.decoder.decode(output)
                self._send(running, piece)
                if piece.finish_reason:
                    return
        raise ModelFailedError("vLLM ended this text without a finish reason")

    def _send(self, running: VLLMJob, piece: TextPiece) -> None:
        now = time.perf_counter()
        running.note_tokens(now, len(piece.token_ids))
        if not running.job.streams:
            running.whole_text.append(piece)
            piece = running.whole_text
        if piece.finish_reason:
            running.finished = True
            delta = piece.to_delta(running.timing(now))
            self._server.call(partial(running.answer.put, running.index, delta))
        elif running.job.streams and (piece.text or piece.token_ids or piece.prompt_logprobs):
            self._server.call(partial(running.answer.put, running.index, piece.to_delta()))

    async def _end(self) -> None:
        """Cancel all jobs, fail their answers, and shut down all engines."""
        self._stopping.set()
        running = dict(self._running)
        for task, job in running.items():
            task.cancel()
            self._server.call(partial(job.answer.fail, BackendStoppedError()))
        await asyncio.gather(*running, return_exceptions=True)
        if engines := self._routes.clear():
            # In parallel, on threads. This loop is blocked meanwhile: vLLM's tasks on it must not run while its
            # processes end.
            with ThreadPoolExecutor(len(engines)) as threads:
                list(threads.map(lambda engine: engine.shutdown(timeout=SHUTDOWN_TIMEOUT), engines.values()))
