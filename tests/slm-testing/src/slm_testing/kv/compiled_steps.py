"""Engines whose compiled decode step is watched."""

from __future__ import annotations

from typing import Any

from slm_kv import Engine
from slm_kv.engine.scheduler import Work
from slm_testing.kv.lora_model import greedy_tokens_alone
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, run_to_end

MAX_ROWS = 32  # of a compiled step


class Steps:
    """Records the adapters of decode rows that the compiled step did and did not compute."""

    def __init__(self, engine: Engine) -> None:
        self.compiled: set[str | None] = set()
        self.others: set[str | None] = set()
        runner: Any = engine._runner
        run_step, run_call = runner._run_step, runner._run_call

        def step(step: Any, work: tuple[Work, ...]) -> Any:
            self.compiled.update(item.sequence.handle.adapter for item in work)
            return run_step(step, work)

        def call(call: Any) -> Any:
            self.others.update(item.sequence.handle.adapter for item in call.work if item.count == 1)
            return run_call(call)

        runner._run_step, runner._run_call = step, call


def make_engine(model: Any, **options: Any) -> Engine:
    """An engine whose steps have so few tokens that the compiled step computes all of them."""
    return Engine(model, page_size=4, max_pages=100, max_step_tokens=MAX_ROWS, **options)


def texts(engine: Engine, requests: list[tuple[list[int], str]], new: int) -> list[list[int]]:
    """The greedy texts of prompts with adapters, generated together."""
    handles = [engine.submit(prompt, greedy_params(new), adapter=name) for prompt, name in requests]
    run_to_end(engine)
    assert [handle.error for handle in handles] == [None] * len(handles)
    return [handle.token_ids for handle in handles]


def requests_and_texts(
    model: Any, name: str, prompts: list[list[int]], new: int
) -> tuple[list[tuple[list[int], str]], list[list[int]]]:
    """Each prompt with each adapter of ``model``, the first also with none, and the texts of each alone.

    ``name`` is that of the tiny model below the adapters.
    """
    requests = [(prompt, adapter) for adapter in model.peft_config for prompt in prompts]
    expected = greedy_tokens_alone(model, list(requests), new)
    return [*requests, (prompts[0], "__base__")], [*expected, greedy_tokens(make_model(name), prompts[0], new)]
