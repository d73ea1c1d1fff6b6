"""Drafts of many architectures and of adapters, with the compiled decode step and without it."""

from __future__ import annotations

import pytest

from slm_kv import Engine, Handle
from slm_kv.sampling import speculation
from slm_kv.sampling.step_times import StepTimes
from slm_testing.kv.lora_model import greedy_tokens_alone, make_lora_model
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts, run_to_end
from slm_testing.zoo.models import shared

PROMPTS = [prompt * 4 for prompt in random_prompts(3, longest=5, seed=3)]
NEW = 24
COMPILED = ["llama", "gpt2", "gemma2", "qwen3"]
GENERAL_PATH = ["gpt_neox", "mixtral", "gpt_oss"]


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft wherever tokens repeat, however often drafts fail."""
    monkeypatch.setattr(StepTimes, "row_cost", lambda self, sequences: 0.02)
    monkeypatch.setattr(speculation, "FIRST_CREDIT", 1e6)
    monkeypatch.setattr(speculation, "MAX_CREDIT", 1e6)


def texts(handles: list[Handle]) -> list[list[int]]:
    assert [handle.error for handle in handles] == [None] * len(handles)
    return [handle.token_ids for handle in handles]


@pytest.mark.parametrize("name", COMPILED + GENERAL_PATH)
def test_greedy_tokens_with_drafts_are_those_of_generate(name: str) -> None:
    model = shared(name)
    expected = [greedy_tokens(model, prompt, NEW) for prompt in PROMPTS]
    with Engine(model, page_size=4, max_pages=64, max_sequences=2) as engine:
        if name in GENERAL_PATH:
            engine._runner.step = None
        else:
            assert engine._runner.step is not None
        first = [engine.submit(prompt, greedy_params(NEW)) for prompt in PROMPTS]
        run_to_end(engine)
        # The pages that are known by now were filled beside drafts.
        again = [
            engine.submit(prompt + text[:9], greedy_params(NEW - 9))
            for prompt, text in zip(PROMPTS, expected, strict=True)
        ]
        run_to_end(engine)
        load = engine.load()
    assert texts(first) == expected
    assert texts(again) == [text[9:] for text in expected]
    assert all(handle.reused_tokens > len(prompt) for handle, prompt in zip(again, PROMPTS, strict=True))
    assert 0 < load.accepted_tokens < load.drafted_tokens


@pytest.mark.parametrize("mixes", [True, False])
def test_drafts_of_requests_with_different_adapters_are_computed_with_theirs(
    mixes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_lora_model()
    expected = greedy_tokens_alone(model, [(PROMPTS[0], "red"), (PROMPTS[1], "blue")], NEW)
    expected.append(greedy_tokens(make_model("llama"), PROMPTS[2], NEW))
    with Engine(model, page_size=3, max_pages=120) as engine:
        monkeypatch.setattr(engine.adapters._models[0], "supports_mixed_batches", mixes)
        requests = zip(PROMPTS, ["red", "blue", "__base__"], strict=True)
        handles = [engine.submit(prompt, greedy_params(NEW), adapter=name) for prompt, name in requests]
        run_to_end(engine)
    assert texts(handles) == expected
    assert all(handle.speculation.drafted for handle in handles)
    assert any(handle.speculation.accepted for handle in handles)
