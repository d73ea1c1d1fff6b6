"""Text of the engine over pages, and of the engine that ``create_engine`` chooses."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from slm_kv import Engine, KVError, SamplingParams, create_engine
from slm_testing.zoo.architecture import WINDOW, Architecture
from slm_testing.zoo.checks.outcome import NOT_APPLICABLE, YES, Outcome, because
from slm_testing.zoo.checks.reference import assert_generated, positions_of, random_ids
from slm_testing.zoo.models import build

NEW_TOKENS = 10


@dataclass(frozen=True)
class EngineCase:
    """Sizes of an engine. Prompts longer than ``max_step_tokens`` are computed in chunks."""

    page_size: int
    max_step_tokens: int
    dtype: torch.dtype = torch.float32


DEFAULT_CASE = EngineCase(page_size=3, max_step_tokens=16)
ALL_CASES = tuple(EngineCase(page_size, step) for page_size, step in product((1, 3, 16), (8, 64)))


def engine(architecture: Architecture) -> Outcome:
    """Text of several prompts at once, one of them in chunks and beyond a window, is that of ``generate``."""
    return engine_case(architecture, DEFAULT_CASE)


def engine_case(architecture: Architecture, case: EngineCase) -> Outcome:
    """The same for an engine with the sizes of ``case``."""
    model = build(architecture.name, case.dtype)
    try:
        paged = Engine(model, page_size=case.page_size, max_step_tokens=case.max_step_tokens, max_sequences=4)
    except KVError as refusal:
        return because("no", refusal)
    with paged:
        _assert_same_text(architecture.name, paged, case.dtype)
        paged.pool.check_integrity()
        return _with_limit("yes", paged)


def window(architecture: Architecture) -> Outcome:
    """Text that begins inside a window and ends beyond it is that of ``generate``, alone and after a cached prefix."""
    if not architecture.windowed:
        return NOT_APPLICABLE
    try:
        paged = Engine(build(architecture.name), page_size=4)
    except KVError as refusal:
        return because("no", refusal)
    prompt = random_ids(WINDOW - 2)
    with paged:
        for _ in range(2):  # the second time, the prompt's pages are reused
            (handle,) = paged.generate([prompt], _greedy(2 * WINDOW))
            assert_generated(handle, architecture.name)
    return YES


def serve(architecture: Architecture) -> Outcome:
    """The chosen engine gives the text of ``generate``, and says why if it does not use pages."""
    try:
        chosen: Any = create_engine(build(architecture.name), None, max_sequences=4)
    except KVError as refusal:
        return because("no", refusal)
    with chosen:
        _assert_same_text(architecture.name, chosen)
        return _with_limit("pages", chosen) if chosen.kind == "paged" else because(chosen.kind, chosen.reason)


def _assert_same_text(name: str, text_engine: Any, dtype: torch.dtype = torch.float32) -> None:
    """Compare the texts of several prompts at once. The longest one exceeds windows, but not the engine's limit."""
    limit = text_engine.context_limits.positions - NEW_TOKENS
    prompts = [random_ids(min(tokens, limit), seed=tokens) for tokens in (3, 25, 40)]
    for handle in text_engine.generate(prompts, _greedy(NEW_TOKENS)):
        assert_generated(handle, name, dtype)


def _with_limit(answer: str, paged: Any) -> Outcome:
    """Return an answer that says if the engine allows fewer positions than the model has."""
    limit, positions = paged.context_limits.positions, positions_of(paged.model)
    if limit >= positions:
        return Outcome(answer)
    try:
        paged.check(random_ids(limit + 1), _greedy(1))
    except KVError as refusal:
        return because(answer, f"{refusal} (the configuration has {positions} positions)")
    raise AssertionError(f"a prompt beyond the limit of {limit} tokens is not refused")


def _greedy(new_tokens: int) -> SamplingParams:
    return SamplingParams(max_new_tokens=new_tokens, temperature=0, ignore_eos=True, logprobs=5)
