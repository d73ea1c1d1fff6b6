"""Overhead of HTTP: slm-serve, streaming and not, compared with its engine in this process under the same load."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.interleaved_timing import Ratio, Times, interleave
from slm_bench.serve.client.prompts import Prompts
from slm_bench.serve.cores import bound
from slm_bench.serve.servers.processes import Server
from slm_bench.serve.setting import PAGE_SIZE, Setting
from slm_bench.serve.throughput import load
from slm_kv import Engine, SamplingParams, set_threads

Cost = tuple[float, float]  # seconds, CPU seconds
ENGINE_ALONE = "the engine alone"


@dataclass(frozen=True)
class HttpCost:
    """The times of one contender, by round; field names are JSON keys."""

    name: str
    seconds: Times
    cpu: Times  # CPU seconds of the server, or of the engine's thread
    ratio: Ratio  # speed over that of the engine alone
    cpu_ratio: Ratio  # the same by CPU seconds, which other load on the core does not influence


@dataclass(frozen=True)
class Overhead:
    """All contenders, the engine alone last; field names are JSON keys."""

    tokens: int
    ways: tuple[HttpCost, ...]


def measure(setting: Setting, server: Server, loaded: Any, prompts: Prompts) -> Overhead:
    """Measure the server and an engine with the same core, sizes and number of threads.

    Raises BenchError if an answer has the wrong number of tokens.
    """
    set_threads(loaded.model, 1)
    with Engine(
        loaded.model,
        loaded.tokenizer,
        page_size=PAGE_SIZE,
        max_pages=setting.pages,
        max_sequences=setting.concurrency,
        max_step_tokens=setting.step_tokens,
    ) as engine:
        contenders: dict[str, Callable[[list[str]], Cost]] = {
            "slm-serve, streaming": partial(_through_http, setting, server, stream=True),
            "slm-serve, whole answers": partial(_through_http, setting, server, stream=False),
            ENGINE_ALONE: partial(_engine_alone, setting, engine),
        }
        for contender in contenders.values():
            contender(prompts.take(setting.concurrency))  # warms up

        def on_new_prompts(contender: Callable[[list[str]], Cost], _: int) -> Cost:
            return contender(prompts.take(setting.requests))

        rounds = {name: partial(on_new_prompts, contender) for name, contender in contenders.items()}
        costs = interleave(rounds, setting.rounds, "overhead")
    times = {name: [Times(values) for values in zip(*spent, strict=True)] for name, spent in costs.items()}
    alone = times[ENGINE_ALONE]
    http_costs = (
        HttpCost(name, seconds, cpu, seconds.speed_over(alone[0]), cpu.speed_over(alone[1]))
        for name, (seconds, cpu) in times.items()
    )
    return Overhead(setting.requests * setting.sizes.new, tuple(http_costs))


def _through_http(setting: Setting, server: Server, prompts: Sequence[str], *, stream: bool) -> Cost:
    turn = load(setting, server, prompts, stream=stream)
    return turn.seconds, turn.server_cpu


def _engine_alone(setting: Setting, engine: Engine, prompts: Sequence[str]) -> Cost:
    """Submit the next prompt as soon as another one is finished, as the clients of the closed loop do."""
    params = SamplingParams(max_new_tokens=setting.sizes.new, temperature=0, ignore_eos=True)
    unsent, tokens = iter(prompts), 0
    with bound(setting.cores.server):
        start, cpu = time.perf_counter(), time.thread_time()
        for prompt in islice(unsent, setting.concurrency):
            engine.submit(prompt, params)
        while engine.busy:
            for update in engine.step():
                tokens += len(update.token_ids)
                if update.finished:
                    for prompt in islice(unsent, 1):
                        engine.submit(prompt, params)
        cost = time.perf_counter() - start, time.thread_time() - cpu
    if tokens != len(prompts) * setting.sizes.new:
        raise BenchError(f"the engine returned {tokens} tokens for {len(prompts)} requests of {setting.sizes.new}")
    return cost


def compare(overhead: Overhead) -> Comparison:
    """Return speeds over that of the engine alone."""
    rows = []
    for contender in overhead.ways:
        ratios = {"of the engine's speed": contender.ratio, "by CPU seconds": contender.cpu_ratio}
        figures = {
            "tokens/s": overhead.tokens / contender.seconds.median,
            "tokens/CPU s": overhead.tokens / contender.cpu.median,
        }
        rows.append(Row(contender.name, {} if contender.name == ENGINE_ALONE else ratios, figures))
    return Comparison("what HTTP costs", tuple(rows))
