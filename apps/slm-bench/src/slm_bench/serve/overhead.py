"""What HTTP costs: slm-serve, streaming and not, beside its engine in this process under the same load."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from slm_bench.serve.cores import bound
from slm_bench.serve.prompts import Prompts
from slm_bench.serve.servers import Server
from slm_bench.serve.setting import PAGE_SIZE, STEP_TOKENS, Setting
from slm_bench.serve.throughput import load
from slm_bench.turns import Ratio, Times
from slm_kv import Engine, KVError, SamplingParams, set_threads


@dataclass(frozen=True)
class Way:
    """One way over all turns, in order, each of the same number of tokens: seconds, and those of the CPU that the
    server, or the engine's thread, took. Ratios: how many times as fast it is as the engine alone, the median, least
    and largest of the turns; by the CPU's seconds what others take of the core is not in it."""

    name: str
    seconds: Times
    cpu: Times
    ratio: Ratio
    cpu_ratio: Ratio


@dataclass(frozen=True)
class Overhead:
    """The engine alone comes last."""

    tokens: int
    ways: tuple[Way, ...]


Cost = tuple[float, float]  # seconds, and seconds of the CPU


def measure(setting: Setting, server: Server, loaded: Any, prompts: Prompts) -> Overhead:
    """In turns. The engine has the server's core, sizes and thread. Raises KVError for an answer that is none."""
    set_threads(loaded.model, 1)
    with Engine(
        loaded.model,
        loaded.tokenizer,
        page_size=PAGE_SIZE,
        max_pages=setting.pages,
        max_sequences=setting.concurrency,
        max_step_tokens=max(STEP_TOKENS, setting.concurrency),
    ) as engine:
        ways: dict[str, Callable[[list[str]], Cost]] = {
            "slm-serve, streaming": lambda asked: _served(setting, server, asked, stream=True),
            "slm-serve, whole answers": lambda asked: _served(setting, server, asked, stream=False),
            "the engine alone": lambda asked: _alone(setting, engine, asked),
        }
        costs = _in_turns(setting, ways, prompts)
    plain = [_times(costs["the engine alone"], which) for which in (0, 1)]
    found = []
    for name, spent in costs.items():
        seconds, cpu = (_times(spent, which) for which in (0, 1))
        found.append(Way(name, seconds, cpu, seconds.over(plain[0]), cpu.over(plain[1])))
    return Overhead(setting.requests * setting.sizes.new, tuple(found))


def _in_turns(
    setting: Setting, ways: dict[str, Callable[[list[str]], Cost]], prompts: Prompts
) -> dict[str, list[Cost]]:
    for way in ways.values():
        way(prompts.take(setting.concurrency))  # to warm up
    found: dict[str, list[Cost]] = {name: [] for name in ways}
    for turn in range(setting.rounds):
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            print(f"overhead, turn {turn + 1}: {name}", file=sys.stderr)
            found[name].append(ways[name](prompts.take(setting.requests)))
    return found


def _times(costs: list[Cost], which: int) -> Times:
    return Times(tuple(cost[which] for cost in costs))


def _served(setting: Setting, server: Server, prompts: Sequence[str], *, stream: bool) -> Cost:
    turn = load(setting, server, prompts, stream=stream)
    return turn.seconds, turn.server_cpu


def _alone(setting: Setting, engine: Engine, prompts: Sequence[str]) -> Cost:
    """The next prompt is submitted as soon as one is finished."""
    params = SamplingParams(max_new_tokens=setting.sizes.new, temperature=0, ignore_eos=True)
    waiting, tokens = iter(prompts), 0
    with bound(setting.cores.server):
        start, cpu = time.perf_counter(), time.thread_time()
        for prompt in islice(waiting, setting.concurrency):
            engine.submit(prompt, params)
        while engine.busy:
            for update in engine.step():
                tokens += len(update.token_ids)
                if update.finished:
                    for prompt in islice(waiting, 1):
                        engine.submit(prompt, params)
        cost = time.perf_counter() - start, time.thread_time() - cpu
    if tokens != len(prompts) * setting.sizes.new:
        raise KVError(f"the engine gave {tokens} tokens for {len(prompts)} requests of {setting.sizes.new}")
    return cost
