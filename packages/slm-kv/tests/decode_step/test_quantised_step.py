"""The compiled decode step of quantised layers: compared exactly, and not used if a scale or a weight is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch

from slm_kv import Engine, SamplingParams
from slm_kv.compiled.block_weights import BlockWeight
from slm_kv.linear import quantisation_gate
from slm_kv.linear.quantised_linear import QuantisedLinear
from slm_testing.zoo.models import build

GREEDY = SamplingParams(max_new_tokens=8, ignore_eos=True, temperature=0)
PROMPT = [5, 6, 7, 8, 9]
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
