"""The compiled decode step: which models have one, and that a wrong one is not used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from slm_kv import Engine, SamplingParams
from slm_kv.decode_step import recognise as recognition
from slm_testing.zoo.models import build

GREEDY = SamplingParams(max_new_tokens=12, ignore_eos=True, temperature=0)
PROMPTS = [[5, 6, 7, 8, 9], list(range(20, 38)), [3]]


def texts(engine: Engine) -> list[list[int]]:
    handles = [engine.submit(prompt, GREEDY) for prompt in PROMPTS]
    while engine.busy:
        engine.step()
    return [list(handle.token_ids) for handle in handles]


NAMES = "llama gpt2 gemma olmo2 phi3 smollm3 cohere granite qwen3 gpt_neox opt vaultgemma gemma3_multimodal"


@pytest.mark.parametrize("name", NAMES.split())
def test_a_recognised_model_gives_the_texts_of_the_general_path(name: str) -> None:
    engine = Engine(build(name), max_pages=64)
    try:
        assert "compiled decode step" in engine.summary
        assert "no compiled decode step" not in engine.summary
        compiled = texts(engine)
        engine._runner.step = None
        engine.pool.clear_cache()
        assert compiled == texts(engine)
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("llama_dynamic", "LlamaRotaryEmbedding gives unknown rotary positions"),
        ("olmo", "OlmoAttention has the setting clip_qkv"),
        ("bitnet", "BitNetAttention has the part attn_sub_norm"),
        ("mixtral", ""),
    ],
)
def test_a_model_that_is_not_understood_keeps_the_general_path_and_the_summary_says_why(name: str, reason: str) -> None:
    engine = Engine(build(name), max_pages=64)
    try:
        assert f"no compiled decode step: {reason}" in engine.summary
        assert all(len(text) == GREEDY.max_new_tokens for text in texts(engine))
    finally:
        engine.close()


def wrong_rotary(description: Any) -> Any:
    def change(block: Any) -> Any:
        rotary = replace(block.attention.rotary, interleaved=True)
        return replace(block, attention=replace(block.attention, rotary=rotary))

    return replace(description, blocks=tuple(map(change, description.blocks)))


def wrong_norm(description: Any) -> Any:
    return replace(description, norm=replace(description.norm, weight=1 + description.norm.weight))


def wrong_order(description: Any) -> Any:
    return replace(description, blocks=tuple(replace(block, parallel=True) for block in description.blocks))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", [wrong_rotary, wrong_norm, wrong_order])
def test_a_wrong_description_is_not_used(change: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    recognise = recognition.recognise
    monkeypatch.setattr(recognition, "recognise", lambda *args: change(recognise(*args)))
    engine = Engine(build("llama", dtype), max_pages=64)
    try:
        assert "no compiled decode step: its logits differ" in engine.summary
        assert engine._runner.step is None
    finally:
        engine.close()


def test_changed_weights_are_those_of_the_next_step() -> None:
    model = build("llama")
    engine = Engine(model, max_pages=64)
    try:
        before = texts(engine)
        with torch.no_grad():
            model.model.norm.weight.copy_(model.model.norm.weight.flip(0))
        engine.weights_changed()
        changed = texts(engine)
        engine._runner.step = None
        engine.pool.clear_cache()
        assert before != changed == texts(engine)
    finally:
        engine.close()


def test_hooks_of_modules_are_called() -> None:
    model = build("llama")
    calls: list[int] = []
    model.model.layers[1].register_forward_hook(lambda *_: calls.append(1))
    engine = Engine(model, max_pages=64)
    try:
        assert "no compiled decode step: hooks are registered" in engine.summary
        before = len(calls)
        texts(engine)
        assert len(calls) > before
    finally:
        engine.close()


def test_a_head_whose_logits_are_zero_at_first_is_not_described_by_a_factor_of_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build("llama")
    forward = type(model).forward

    def silent(self: Any, *arguments: Any, **options: Any) -> Any:
        output = forward(self, *arguments, **options)
        output.logits = output.logits * 0
        return output

    monkeypatch.setattr(type(model), "forward", silent)
    engine = Engine(model, max_pages=64)
    try:
        assert "no compiled decode step" in engine.summary
    finally:
        engine.close()
