"""The compiled decode step of quantised layers: compared exactly, and not used if a scale or a weight is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch

from slm_kv import BASE_ADAPTER, Engine, SamplingParams
from slm_kv.compiled.block_weights import BlockWeight
from slm_kv.linear import quantisation_gate
from slm_kv.linear.quantised_linear import QuantisedLinear
from slm_kv.peft_models import only_adapter
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.zoo.models import build

GREEDY = SamplingParams(max_new_tokens=8, ignore_eos=True, temperature=0)
PROMPT = [5, 6, 7, 8, 9]
LONG_PROMPT = list(range(20, 36))
Format = Literal["q8", "q4"]


@pytest.fixture(autouse=True)
def ungated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights have no perplexity worth keeping."""
    monkeypatch.setattr(quantisation_gate, "mean_nats", lambda *_: 1.0)


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    created: list[Engine] = []
    yield created
    for engine in created:
        engine.close()


def quantised_engine(name: str, weights: Format, dtype: torch.dtype, engines: list[Engine]) -> Engine:
    engine = Engine(build(name, dtype), weights=weights, gate_text=[1, 2, 3] * 400, max_pages=64, speculate="off")
    engines.append(engine)
    return engine


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", ["q8", "q4"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_quantised_layers_have_a_compiled_step(
    name: str, weights: Format, dtype: torch.dtype, engines: list[Engine]
) -> None:
    engine = quantised_engine(name, weights, dtype, engines)
    assert f"prepacked in {weights}, compiled decode step" in engine.summary
    [handle] = engine.generate([PROMPT], GREEDY)
    assert len(handle.token_ids) == GREEDY.max_new_tokens
    assert handle.error is None


def prompt_logprobs(engine: Engine, adapter: str | None = None) -> torch.Tensor:
    handle = engine.submit(LONG_PROMPT, SamplingParams(max_new_tokens=1, prompt_logprobs=0), adapter=adapter)
    while engine.busy:
        engine.step()
    return torch.tensor([token.logprob for token in handle.prompt_logprobs])


def own_logprobs(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        logprobs = model(torch.tensor([LONG_PROMPT])).logits[0].log_softmax(-1)
    return logprobs[range(len(LONG_PROMPT) - 1), LONG_PROMPT[1:]]


@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_adapters_are_added_to_quantised_layers(weights: Format) -> None:
    """After ``close`` the model has the rounded weights, with which its own logits are those of the engine."""
    model: Any = make_lora_model()
    with Engine(model, weights=weights, gate_text=[1, 2, 3] * 400, speculate="off") as engine:
        found = {name: prompt_logprobs(engine, name) for name in (BASE_ADAPTER, "red", "blue")}
    for name in found:
        with only_adapter(model, None if name == BASE_ADAPTER else name):
            expected = own_logprobs(model)
        distances = {other: (found[other] - expected).norm() for other in found}
        assert distances[name] == min(distances.values())
        assert distances[name] <= 0.02 * expected.norm()


def test_weights_that_were_changed_in_place_are_those_of_the_next_step(engines: list[Engine]) -> None:
    engine = quantised_engine("llama", "q8", torch.float32, engines)
    before = prompt_logprobs(engine)
    with torch.no_grad():
        engine.model.model.norm.weight.copy_(engine.model.model.norm.weight.flip(0) * 1.5)
    engine.weights_changed()
    assert "compiled decode step" in engine.summary
    changed = prompt_logprobs(engine)
    engine._runner.step = None
    engine.pool.clear_cache()
    assert (changed - before).norm() > 10 * (changed - prompt_logprobs(engine)).norm()


def scale_one_group(blocks: Any) -> None:
    blocks[0, 0, -128:-126] = blocks[0, 0, -126:-124]  # the scale (q41: minimum) of output 0 is that of output 1


def change_one_weight(blocks: Any) -> None:
    blocks[0, 0, 0] ^= 8


@pytest.mark.parametrize("change", [scale_one_group, change_one_weight])
@pytest.mark.parametrize("weights", ["q8", "q4"])
def test_a_step_that_reads_one_wrong_number_is_not_used(
    weights: Format, change: Any, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of one layer gets other memory than the layer itself."""
    view, wrong = QuantisedLinear._view_blocks, iter([True])

    def view_wrong(layer: QuantisedLinear) -> BlockWeight | None:
        weight = view(layer)
        if weight is None or not next(wrong, False):
            return weight
        blocks = layer.weight_blocks.blocks.clone()
        change(blocks.numpy())
        return BlockWeight(weight.format, blocks.flatten(1).numpy(), weight.outputs, weight.inputs, 64, blocks)

    monkeypatch.setattr(QuantisedLinear, "_view_blocks", view_wrong)
    engine = quantised_engine("llama", weights, torch.bfloat16, engines)
    assert "no compiled decode step: its logits differ" in engine.summary
