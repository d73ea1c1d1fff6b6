"""The side that ``side="auto"`` rotates, and sides that cannot be rotated."""

from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from slm_adapters import AdapterError, ButterflyConfig
from slm_testing.adapters.tiny_adapters import assert_close, assert_differ, layers, randomize_angles


class Regressor(nn.Module):
    """Layers of 1 -> 12, 12 -> 12, 12 -> 4 and 4 -> 1 features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.hidden = nn.Linear(1, 12), nn.Linear(12, 12)
        self.narrow, self.last = nn.Linear(12, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.narrow(self.hidden(self.first(x).tanh()).tanh()).tanh())
        return y


def adapt(names: list[str] | None = None, **settings: Any) -> PeftModel:
    return get_peft_model(Regressor(), ButterflyConfig(target_modules=names, **settings)).eval()


def rotated_widths(adapted: PeftModel) -> dict[str, tuple[str, int]]:
    return {
        name.rpartition(".")[2]: (side, rotation.width)
        for name, layer in layers(adapted).items()
        for side, rotation, _ in layer.angles("default")
    }


def test_auto_rotates_the_narrower_side_of_those_that_have_a_plane() -> None:
    adapted = adapt()
    expected = {"first": ("output", 12), "hidden": ("input", 12), "narrow": ("output", 4), "last": ("input", 4)}
    assert rotated_widths(adapted) == expected
    x = torch.linspace(-1, 1, 7)[:, None]
    assert torch.equal(adapted(x), Regressor()(x))
    randomize_angles(adapted)
    rotated = adapted(x)
    assert_differ(rotated, Regressor()(x))
    assert_close(adapted.merge_and_unload()(x), rotated)


def test_auto_rotates_the_wider_side_if_only_its_width_is_divided_by_the_block_size() -> None:
    adapted = adapt(["first", "hidden", "narrow"], block_size=6)
    assert rotated_widths(adapted) == {"first": ("output", 12), "hidden": ("input", 12), "narrow": ("input", 12)}
    with pytest.raises(
        AdapterError, match=r"^narrow: butterfly block size 8 does not divide the width 4; use one of 2, 4"
    ):
        adapt(["narrow"], block_size=8)


@pytest.mark.parametrize(
    ("name", "side", "fault"),
    [
        ("first", "input", "1 -> 12 features has no plane to rotate in at its input"),
        ("first", "both", "1 -> 12 features has no plane to rotate in at its input"),
        ("last", "output", "4 -> 1 features has no plane to rotate in at its output"),
        ("last", "both", "4 -> 1 features has no plane to rotate in at its output"),
    ],
)
def test_a_named_side_of_width_one_is_refused(name: str, side: str, fault: str) -> None:
    with pytest.raises(AdapterError, match=rf"^{name}: a layer of {fault}; use side='auto', or leave it out"):
        adapt([name], side=side)


@pytest.mark.parametrize("side", ["auto", "input", "output", "both"])
@pytest.mark.parametrize("block_size", [None, 2])
def test_a_layer_with_one_input_and_one_output_is_refused(side: str, block_size: int | None) -> None:
    config = ButterflyConfig(target_modules=["0"], side=side, block_size=block_size)
    with pytest.raises(AdapterError, match=r"^0: a layer of 1 -> 1 features has no plane to rotate in.*leave it out"):
        get_peft_model(nn.Sequential(nn.Linear(1, 1)), config)
