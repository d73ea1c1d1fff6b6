"""Butterflies in the compiled decode step: each text is that of PEFT, and their base layers are packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

pytest.importorskip("numba")

from slm_adapters import ButterflyConfig
from slm_kv import Engine
from slm_kv.linear.packed_linear import PackedLayer
from slm_kv.peft_models import rotated_layers
from slm_testing.kv.compiled_steps import Steps, make_engine, requests_and_texts, texts
from slm_testing.kv.lora_model import greedy_tokens_alone
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts, run_to_end
from slm_testing.zoo.models import build

NEW = 8
PROMPTS = random_prompts(3, seed=4)
LAYERS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "llama": "all-linear"}


def attach(model: Any, name: str, seed: int = 1, **settings: Any) -> Any:
    """Attach a butterfly with random angles and magnitudes."""
    targets = LAYERS.get(model.config.model_type, ["c_attn"])
    if hasattr(model, "add_adapter") and hasattr(model, "peft_config"):
        model.add_adapter(name, ButterflyConfig(target_modules=targets, **settings))
    else:
        model = get_peft_model(model, ButterflyConfig(target_modules=targets, **settings), name)
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if key.endswith(f".{name}"):
                weight.normal_(std=0.5)
    return model.eval()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "settings",
    [({"side": "input"}, {"side": "output", "scale": True}), ({"side": "both", "scale": True}, {"block_size": 8})],
    ids=["input-output", "both-block"],
)
def test_rows_with_any_butterfly_and_none_share_a_step(
    name: str, settings: tuple[dict[str, Any], dict[str, Any]], threads: int, torch_threads: None
) -> None:
    model = attach(attach(make_model(name), "red", **settings[0]), "blue", 2, **settings[1])
    requests, expected = requests_and_texts(model, name, PROMPTS, NEW)
    with make_engine(model) as engine:
        torch.set_num_threads(threads)
        steps = Steps(engine)
        assert engine.summary.endswith("compiled decode step")
        assert texts(engine, requests, NEW) == expected
        assert (steps.compiled, steps.others) == ({"red", "blue", None}, set())
        assert all(isinstance(layer.base_layer, PackedLayer) for layer in rotated_layers(model))
        assert not any(layer.cache.merged_layer for layer in rotated_layers(model))
    assert [layer.cache_weight for layer in rotated_layers(model)] == [None] * len(rotated_layers(model))
    assert greedy_tokens_alone(model, requests[:1], NEW) == expected[:1]
    assert len({tuple(text) for text in expected[::3]}) == 3


def test_lora_and_a_butterfly_that_was_added_share_a_step() -> None:
    red: Any = get_peft_model(make_model("llama"), LoraConfig(r=3, target_modules="all-linear"), "red")
    torch.manual_seed(3)
    with torch.no_grad():
        for key, weight in red.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.3)
    expected = greedy_tokens_alone(red.eval(), [(PROMPTS[1], "red")], NEW)
    expected += [greedy_tokens(attach(make_model("llama"), "x"), PROMPTS[1], NEW)]
    with make_engine(red) as engine:
        steps = Steps(engine)
        engine.add_adapter("x", lambda model: attach(model, "x"))
        assert texts(engine, [(PROMPTS[1], "red"), (PROMPTS[1], "x")], NEW) == expected
        assert (steps.compiled, steps.others) == ({"red", "x"}, set())
        assert all(isinstance(layer.base_layer, PackedLayer) for layer in rotated_layers(engine.models[1]))


def test_a_changed_strength_is_that_of_the_next_step() -> None:
    model = attach(make_model("llama"), "red", scale=True)
    with make_engine(model) as engine:
        for strength in (0.5, 0.0):
            model.base_model.set_strength(strength, "red")
            engine.weights_changed()
            assert texts(engine, [(PROMPTS[1], "red")], NEW) == [strength_alone(strength)]
    assert strength_alone(0.5) != strength_alone(0.0) == greedy_tokens(make_model("llama"), PROMPTS[1], NEW)


def strength_alone(strength: float) -> list[int]:
    model = attach(make_model("llama"), "red", scale=True)
    model.base_model.set_strength(strength, "red")
    return greedy_tokens(model, PROMPTS[1], NEW)


def test_without_a_compiled_step_butterflies_keep_their_plain_base_layers() -> None:
    """Their rotated weight is then cached for decoding, which is faster than rotating its input."""
    model = build("llama_dynamic")
    adapted: PeftModel = get_peft_model(model, ButterflyConfig(target_modules=["q_proj"]), "red").eval()
    with Engine(adapted, max_pages=64) as engine:
        assert "no compiled decode step" in engine.summary
        assert not any(isinstance(layer.base_layer, PackedLayer) for layer in rotated_layers(adapted))
        assert all(layer.cache_weight is None for layer in rotated_layers(adapted))
        engine.submit(PROMPTS[0], greedy_params(2))
        run_to_end(engine)
        assert all(layer.cache.merged_layer for layer in rotated_layers(adapted))
