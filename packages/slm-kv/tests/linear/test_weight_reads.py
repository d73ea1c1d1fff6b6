"""Layers whose weight a model reads itself stay plain; all others are packed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slm_kv import Engine, SamplingParams
from slm_kv.linear.packed_linear import PackedLinear
from slm_kv.linear.weight_reads import recording_weight_reads
from slm_testing.kv.tiny_models import MODEL_FACTORIES, make_model


class ReadingLayer(nn.Module):
    """Like the router of a mixture of experts, asks for the dtype of a layer's weight before it calls the layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x.to(self.layer.weight.dtype))
        return result


@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_a_model_that_only_calls_its_layers_reads_no_weight(name: str) -> None:
    model = make_model(name)
    parameters = {module: module._parameters for module in model.modules()}
    with recording_weight_reads([model]) as found:
        model(torch.tensor([[1, 2, 3]]), use_cache=False)
    assert found == set()
    assert all(module._parameters is parameters[module] for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["llama"])
def test_the_engine_leaves_a_layer_plain_whose_weight_is_read(name: str) -> None:
    model: Any = make_model(name)
    mlp = model.model.layers[0].mlp
    params = SamplingParams(max_new_tokens=6, temperature=0)
    with Engine(model, page_size=4, max_pages=16) as engine:
        expected = engine.generate([[1, 2, 3]], params)[0].token_ids
    mlp.up_proj = ReadingLayer(mlp.up_proj)
    with Engine(model, page_size=4, max_pages=16) as engine:
        assert type(mlp.up_proj.layer) is nn.Linear
        assert type(mlp.down_proj) is PackedLinear
        (handle,) = engine.generate([[1, 2, 3]], params)
    assert handle.error is None
    assert handle.token_ids == expected
