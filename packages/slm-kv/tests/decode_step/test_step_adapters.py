"""Adapters in the compiled decode step: which ones it computes, and that each text is that of PEFT."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

pytest.importorskip("numba")

from slm_kv.engine.verification import compiled_adapters
from slm_kv.linear import quantisation_gate
from slm_testing.kv.compiled_steps import Steps, make_engine, requests_and_texts, texts
from slm_testing.kv.lora_model import greedy_tokens_alone
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts

NEW = 8
PROMPTS = random_prompts(3, seed=4)


def lora(targets: Any = "all-linear", **settings: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules=targets, **settings)


def adapted(name: str, *configs: LoraConfig) -> PeftModel:
    """A tiny model with adapters ``red`` and ``blue``, whose random weights change its texts."""
    model: Any = get_peft_model(make_model(name), configs[0], "red")
    for config in configs[1:]:
        model.add_adapter("blue", config)
    randomize_adapters(model)
    result: PeftModel = model.eval()
    return result


def randomize_adapters(model: Any, seed: int = 1) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.normal_(std=0.3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("name", "configs"),
    [
        ("llama", [lora(lora_dropout=0.5), lora(["q_proj", "down_proj"], use_rslora=True, lora_alpha=16)]),
        ("llama", [lora(["v_proj", "up_proj", "lm_head"]), lora(["o_proj"], rank_pattern={"o_proj": 9})]),
        ("tied_llama", [lora(["k_proj", "gate_proj"]), lora()]),
        ("qwen2", [lora(["k_proj", "v_proj"])]),
        ("gpt2", [lora(fan_in_fan_out=True), lora(["c_attn"], fan_in_fan_out=True)]),
    ],
)
def test_rows_with_any_adapter_and_none_share_a_step(
    name: str, configs: list[LoraConfig], threads: int, torch_threads: None
) -> None:
    model = adapted(name, *configs)
    requests, expected = requests_and_texts(model, name, PROMPTS, NEW)
    with make_engine(model) as engine:
        torch.set_num_threads(threads)
        steps = Steps(engine)
        assert engine.summary.endswith("compiled decode step")
        assert texts(engine, requests, NEW) == expected
        assert steps.compiled == {*model.peft_config, None}
        assert not steps.others
    assert len({tuple(text) for text in expected[:: len(PROMPTS)]}) == 1 + len(configs)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lora(["q_proj"], modules_to_save=["lm_head"]), "lm_head.modules_to_save"),
        (lora(["q_proj"], modules_to_save=["model.norm"]), "model.norm.modules_to_save"),
        (lora(["q_proj", "embed_tokens"]), "model.embed_tokens.lora_dropout"),
        (lora(["q_proj"], lora_bias=True), "model.layers.0.self_attn.q_proj.lora_B"),
    ],
    ids=["head", "norm", "embedding", "bias"],
)
def test_rows_with_an_adapter_that_is_not_understood_take_the_general_path(config: LoraConfig, reason: str) -> None:
    model = adapted("llama", lora(["k_proj"]), config)
    requests = [(prompt, name) for name in ("red", "blue") for prompt in PROMPTS]
    expected = greedy_tokens_alone(model, list(requests), NEW)
    with make_engine(model) as engine:
        steps = Steps(engine)
        assert engine.summary.endswith(
            f"compiled decode step, except with 1 of 2 adapters (blue: {reason} is not understood)"
        )
        assert texts(engine, [*requests, (PROMPTS[0], "__base__")], NEW)[:-1] == expected
        assert (steps.compiled, steps.others) == ({"red", None}, {"blue"})


def test_dora_takes_the_general_path() -> None:
    attach_dora = attach("x", 1, use_dora=True)
    with make_engine(make_model("llama")) as engine:
        engine.add_adapter("x", attach_dora)
        steps = Steps(engine)
        assert "1 of 1 adapter (x: model.layers.0.mlp.up_proj.lora_A is not understood)" in engine.summary
        assert texts(engine, [(PROMPTS[1], "x")], NEW) == [
            greedy_tokens(attach_dora(make_model("llama")), PROMPTS[1], NEW)
        ]
        assert (steps.compiled, steps.others) == (set(), {"x"})


def test_an_adapter_of_a_model_with_other_weights_takes_the_general_path() -> None:
    other: Any = get_peft_model(make_model("llama", seed=1), lora(["v_proj"]), "green")
    with make_engine([adapted("llama", lora(["k_proj"])), other.eval()]) as engine:
        reason = "its model has another weight in model.layers.0.self_attn.q_proj"
        assert f"except with 1 of 2 adapters (green: {reason})" in engine.summary


@pytest.mark.parametrize("weights", [{}, {"weights": "q8", "gate_text": [1, 2, 3] * 400}], ids=["plain", "q8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_update_is_not_used(
    dtype: torch.dtype, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation_gate, "mean_nats", lambda *_: 1.0)
    recognise = compiled_adapters.recognise_adapter

    def wrong(*args: Any) -> Any:
        adapter = recognise(*args)
        for place, update in adapter._updates.items():
            adapter._updates[place] = replace(update, scaling=1.01 * update.scaling)
        return adapter

    monkeypatch.setattr(compiled_adapters, "recognise_adapter", wrong)
    with make_engine(adapted("llama", lora(["o_proj"])).to(dtype), **weights) as engine:
        assert "compiled decode step, except" in engine.summary
        assert "(red: its logits differ (several rows of two texts))" in engine.summary


def attach(name: str, seed: int, **settings: Any) -> Callable[[Any], Any]:
    def with_adapter(model: Any) -> Any:
        adapted_model = get_peft_model(model, lora(["q_proj", "up_proj"], **settings), name)
        randomize_adapters(adapted_model, seed)
        return adapted_model

    return with_adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_come_and_go_while_the_step_runs(dtype: torch.dtype) -> None:
    model = make_model("llama").to(dtype)
    with make_engine(model) as engine:
        steps, seen = Steps(engine), []
        for seed in (1, 2):
            running = engine.submit(PROMPTS[0], greedy_params(40), adapter="__base__")
            engine.step()
            engine.add_adapter("x", attach("x", seed))
            assert engine.summary.endswith("compiled decode step")
            seen.append(texts(engine, [(PROMPTS[1], "x")], NEW)[0])
            copies = [weakref.ref(copy) for copy in engine._runner.step.adapters["x"]._copies.values()]
            engine.remove_adapter("x")
            gc.collect()
            assert copies
            assert not any(copy() is not None for copy in copies)
            assert running.error is None
        assert seen[0] != seen[1]
        assert steps.compiled == {"x", None}
        if dtype is torch.float32:
            expected = [greedy_tokens(attach("x", seed)(make_model("llama")), PROMPTS[1], NEW) for seed in (1, 2)]
            assert seen == expected


def test_changed_weights_of_an_adapter_are_those_of_the_next_step() -> None:
    model = adapted("llama", lora(["q_proj", "down_proj"]))
    with make_engine(model) as engine:
        steps = Steps(engine)
        before = texts(engine, [(PROMPTS[1], "red")], NEW)
        randomize_adapters(model, seed=2)
        engine.weights_changed()
        after = texts(engine, [(PROMPTS[1], "red")], NEW)
        assert steps.compiled == {"red"}
    assert before != after == greedy_tokens_alone(model, [(PROMPTS[1], "red")], NEW)
