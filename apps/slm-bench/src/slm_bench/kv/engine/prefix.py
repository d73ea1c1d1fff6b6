"""Prefix caching: time to the first token of a prompt whose beginning is cached, compared with an unknown prompt."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slm_bench.errors import BenchError
from slm_bench.harness.comparison import Comparison, Row
from slm_bench.harness.interleaved_timing import Ratio, Times
from slm_bench.kv.engine.contenders import PAGE_SIZE
from slm_bench.kv.engine.workload import Tokens, endless_texts
from slm_kv import Engine, SamplingParams

PROMPT_TOKENS, UNKNOWN_TOKENS = 544, 32


@dataclass(frozen=True)
class PrefixMeasurement:
    """Times to the first token; field names are JSON keys."""

    prompt_tokens: int
    known_tokens: int
    unknown: Times
    known: Times
    ratio: Ratio  # speed with the known prefix over without
    same_tokens: bool


def measure(model: Any, tokenize: Callable[[str], Tokens], rounds: int) -> PrefixMeasurement:
    """Alternate between a prompt sent to an empty cache and one that shares its beginning.

    The second prompt is sent once more to an empty cache and has to get the same token.
    """
    prompt = min(PROMPT_TOKENS, model.config.max_position_embeddings - UNKNOWN_TOKENS)
    known = (prompt - UNKNOWN_TOKENS) // PAGE_SIZE * PAGE_SIZE  # only whole pages are shared
    texts = endless_texts(tokenize)
    beginning = next(texts)[:known]
    unknown_seconds, known_seconds, same = [], [], True
    with Engine(model, page_size=PAGE_SIZE, max_pages=4 * -(-prompt // PAGE_SIZE)) as engine:
        for number in range(rounds + 1):
            first, second = (beginning + next(texts)[: prompt - known] for _ in range(2))
            engine.pool.clear_cache()
            _, slow, _ = _first_token(engine, first)
            token, fast, reused = _first_token(engine, second)
            if reused != known:
                raise BenchError(f"the engine reused {reused} of {known} known tokens; report this as a bug of slm-kv")
            engine.pool.clear_cache()
            same = same and token == _first_token(engine, second)[0]
            if number:  # round 0 warms up
                unknown_seconds.append(slow)
                known_seconds.append(fast)
    slow_times, fast_times = Times(tuple(unknown_seconds)), Times(tuple(known_seconds))
    return PrefixMeasurement(prompt, known, slow_times, fast_times, fast_times.speed_over(slow_times), same)


def _first_token(engine: Engine, prompt: Tokens) -> tuple[int, float, int]:
    """Return the token, its seconds, and the number of prompt tokens that were reused."""
    start = time.perf_counter()
    handle = engine.submit(prompt, SamplingParams(max_new_tokens=1, temperature=0, ignore_eos=True))
    while engine.busy:
        engine.step()
    return handle.token_ids[0], time.perf_counter() - start, handle.reused_tokens


def compare(measured: PrefixMeasurement) -> Comparison:
    """Return the time to the first token with the known prefix, relative to without."""
    figures = {
        "first token, ms": measured.known.median * 1000,
        "unknown, ms": measured.unknown.median * 1000,
        "same token": "yes" if measured.same_tokens else "NO",
    }
    name = f"{measured.known_tokens} of {measured.prompt_tokens} tokens known"
    row = Row(name, {"as soon": measured.ratio}, figures)
    return Comparison("first token of a prompt whose beginning is known", (row,))
