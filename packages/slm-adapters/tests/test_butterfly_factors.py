"""The factors and magnitudes that a butterfly layer offers to inference engines."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from torch import Tensor, nn

from slm_adapters import ButterflyConfig


def multiply(x: Tensor, factors: tuple[tuple[Tensor, int], ...]) -> Tensor:
    """Multiply rows ``[N, width]`` by each factor, group by group, as its documentation says."""
    for matrices, stride in factors:
        size, y = matrices.shape[1], x.clone()
        for group, matrix in enumerate(matrices.double()):
            columns = (group // stride * size + torch.arange(size)) * stride + group % stride
            y[:, columns] = x[:, columns] @ matrix.T
        x = y
    return x


@given(
    sizes=st.tuples(st.integers(2, 24), st.integers(2, 24)),
    side=st.sampled_from(["input", "output", "both"]),
    stages=st.none() | st.integers(1, 6),
    scale=st.booleans(),
    strength=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_a_layer_is_its_base_between_its_factors_times_its_magnitudes(
    sizes: tuple[int, int], side: str, stages: int | None, scale: bool, strength: float, seed: int
) -> None:
    torch.manual_seed(seed)
    config = ButterflyConfig(
        target_modules=["0"], side=side, stages=stages, scale=scale, strength=strength, init_weights=False
    )
    model = get_peft_model(nn.Sequential(nn.Linear(*sizes)), config, "red").eval()
    layer = model.base_model.model[0]
    x = torch.randn(3, sizes[0])
    weight, bias = layer.base_layer.weight.double(), layer.base_layer.bias.double()
    y = multiply(
        multiply(x.double(), layer.rotation_factors("input", "red")) @ weight.T + bias,
        layer.rotation_factors("output", "red"),
    )
    magnitudes = layer.magnitudes("red")
    y = y if magnitudes is None else y * magnitudes.double()
    assert torch.allclose(model(x).double(), y, atol=1e-5)


@pytest.mark.parametrize("side", ["input", "output"])
def test_an_adapter_that_a_layer_does_not_have_has_no_factors(side: str) -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), ButterflyConfig(target_modules=["0"]), "red")
    layer = model.base_model.model[0]
    assert layer.rotation_factors(side, "blue") == ()
    assert layer.magnitudes("blue") is None
