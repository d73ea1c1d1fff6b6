"""On the meta device nothing is computed, and shapes and dtypes are those that torch gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from slm_adapters.base.meta_initialization import SkipMetaValues


def frequencies() -> torch.Tensor:
    return 1.0 / (10_000 ** (torch.arange(0, 64, 2, dtype=torch.float) / 64))


@pytest.mark.parametrize(
    "build",
    [
        frequencies,
        lambda: torch.arange(5) / 2,
        lambda: 2 ** torch.arange(3, dtype=torch.float64),
        lambda: torch.empty_like(torch.empty(2, 3, dtype=torch.bfloat16)),
        lambda: torch.empty_like(torch.empty(2, 3), dtype=torch.float64, device="cpu"),
        lambda: torch.empty_like(torch.empty(3, 2).t()),
        lambda: nn.Linear(3, 4).weight,
        lambda: nn.Embedding(3, 4).weight,
    ],
)
def test_shapes_dtypes_and_devices_are_those_that_torch_gives(build: Callable[[], torch.Tensor]) -> None:
    def described(tensor: torch.Tensor) -> tuple[Any, ...]:
        return tensor.shape, tensor.dtype, tensor.device, tensor.stride(), type(tensor)

    with torch.device("meta"):
        expected = described(build())
    with SkipMetaValues(), torch.device("meta"):
        assert described(build()) == expected


@pytest.mark.parametrize("build", [frequencies, lambda: nn.Linear(3, 4).weight, lambda: nn.Embedding(3, 4).weight])
def test_values_on_the_cpu_are_those_that_torch_gives(build: Callable[[], torch.Tensor]) -> None:
    torch.manual_seed(0)
    expected = build()
    torch.manual_seed(0)
    with SkipMetaValues():
        assert torch.equal(build(), expected)
