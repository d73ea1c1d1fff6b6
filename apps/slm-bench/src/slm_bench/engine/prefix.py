"""The first token of a prompt whose beginning the engine has seen, against one that is new to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slm_bench.engine.ways import PAGE_SIZE
from slm_bench.engine.workload import Tokens, texts
from slm_bench.turns import Times
from slm_kv import Engine, KVError, SamplingParams

PROMPT, NEW_TO_IT = 544, 32


@dataclass(frozen=True)
class Measured:
    """Times to the first token. ``ratio``: how many times as soon it comes, the median, least and largest."""

    prompt_tokens: int
    known_tokens: int
    unknown: Times
    known: Times
    ratio: tuple[float, float, float]
    same_tokens: bool


def measure(model: Any, tokenize: Callable[[str], Tokens], rounds: int) -> Measured:
    """In turns: all pages forgotten and the whole prompt read, then the same prompt with another end.

    The last is asked for again with all forgotten, and has to get the same token.
    """
    prompt = min(PROMPT, model.config.max_position_embeddings - NEW_TO_IT)
    known = (prompt - NEW_TO_IT) // PAGE_SIZE * PAGE_SIZE
    source = texts(tokenize)
    beginning = next(source)[:known]
    unknown_seconds, known_seconds, same = [], [], True
    with Engine(model, page_size=PAGE_SIZE, max_pages=4 * -(-prompt // PAGE_SIZE)) as engine:
        for turn in range(rounds + 1):
            first, second = (beginning + next(source)[: prompt - known] for _ in range(2))
            engine.pool.clear_cache()
            _, slow, _ = _first_token(engine, first)
            token, fast, reused = _first_token(engine, second)
            if reused != known:
                raise KVError(f"{reused} tokens of a known beginning of {known} were found: a fault of the engine")
            engine.pool.clear_cache()
            same = same and token == _first_token(engine, second)[0]
            if turn:
                unknown_seconds.append(slow)
                known_seconds.append(fast)
    slow_times, fast_times = Times(tuple(unknown_seconds)), Times(tuple(known_seconds))
    return Measured(prompt, known, slow_times, fast_times, fast_times.over(slow_times), same)


def _first_token(engine: Engine, prompt: Tokens) -> tuple[int, float, int]:
    """The token, the seconds it took, and how many tokens of the prompt were found."""
    start = time.perf_counter()
    handle = engine.submit(prompt, SamplingParams(max_new_tokens=1, temperature=0, ignore_eos=True))
    while engine.busy:
        engine.step()
    return handle.token_ids[0], time.perf_counter() - start, handle.reused_tokens
