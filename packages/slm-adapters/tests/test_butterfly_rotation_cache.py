"""The rotation cached for inference is composed once and never out of date."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from slm_adapters import ButterflyConfig, ButterflyLayer, Rotation, rotate, rotate_reference
from slm_testing.adapters.cache_changes import CHANGES, Change, count_cosines
from slm_testing.adapters.tiny_adapters import butterfly_layer


def layer_with_cached_rotation(side: str = "both", **settings: Any) -> ButterflyLayer:
    layer = butterfly_layer(side, **settings).eval()
    layer.cache_weight = False
    return layer


def test_in_evaluation_a_rotation_is_composed_once() -> None:
    layer, x = layer_with_cached_rotation(), torch.randn(3, 16)
    assert count_cosines(layer, x) > 0
    assert count_cosines(layer, x) == count_cosines(layer, 2 * x) == 0
    layer.train()
    assert count_cosines(layer, x) > 0
    layer.eval()
    assert count_cosines(layer, x) > 0
    assert count_cosines(layer, x) == 0


def test_gradients_in_eval_mode_equal_those_of_training() -> None:
    layer, x = layer_with_cached_rotation(), torch.randn(3, 16)
    count_cosines(layer, x)
    actual = torch.autograd.grad(layer(x).sin().sum(), list(layer.butterfly_input.parameters()))
    layer.train()
    expected = torch.autograd.grad(layer(x).sin().sum(), list(layer.butterfly_input.parameters()))
    assert torch.equal(actual[0], expected[0])
    assert actual[0].abs().max() > 0


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_cached_rotation_is_dropped_when_its_angles_change(change: Change) -> None:
    layer, x = layer_with_cached_rotation("input"), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
        change(layer, layer.butterfly_input["default"])
        actual = layer(x)
        expected = copy.deepcopy(layer).train().eval()(x)  # composes again
    assert not torch.allclose(expected, before, atol=1e-3)
    assert torch.equal(actual, expected)


def test_a_cached_rotation_of_one_dtype_is_not_used_for_another() -> None:
    layer, x = layer_with_cached_rotation(), torch.randn(3, 16)
    with torch.no_grad():
        layer(x)
        exact = layer.double()(x.double())
        fresh = copy.deepcopy(layer).train().eval()(x.double())
    assert exact.dtype == torch.float64
    assert torch.equal(exact, fresh)
    base = layer.base_layer
    expected = rotate_reference(x.double(), layer.butterfly_input["default"], Rotation.of(16))
    expected = rotate_reference(base(expected), layer.butterfly_output["default"], Rotation.of(32))
    torch.testing.assert_close(exact, expected.detach(), rtol=0, atol=1e-13)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.gpu
def test_a_cached_rotation_is_not_used_on_another_device() -> None:
    layer, x = layer_with_cached_rotation(), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), before, rtol=1e-4, atol=1e-5)


def test_a_reused_adapter_name_never_gets_its_old_rotation() -> None:
    layer, x = layer_with_cached_rotation("input"), torch.randn(3, 16)
    shape = layer.butterfly_input["default"].shape
    memory = np.zeros(shape, dtype=np.float32)  # freed memory may be allocated again for the same name

    def add_again(value: float) -> torch.Tensor:
        memory.fill(value)
        layer.update_layer("again", ButterflyConfig(side="input"))
        layer.butterfly_input["again"] = nn.Parameter(torch.from_numpy(memory))
        layer.set_adapter("again")
        with torch.no_grad():
            actual: torch.Tensor = layer(x)
        return actual

    before = add_again(0.5)
    layer.delete_adapter("again")
    actual = add_again(-0.3)
    with torch.no_grad():
        expected = copy.deepcopy(layer).train().eval()(x)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("width", "mode"),
    [(22, torch.inference_mode), (26, torch.no_grad), (34, FakeTensorMode)],
    ids=["inference", "no-grad", "fake"],
)
def test_training_works_after_inference_has_filled_the_caches(width: int, mode: Callable[[], Any]) -> None:
    rotation = Rotation.of(width)  # used by no other test, so nothing is cached for it
    with mode():
        rotate(torch.zeros(2, width), torch.zeros(rotation.angle_shape), rotation)
    x, angles = torch.randn(2, width), torch.randn(rotation.angle_shape, requires_grad=True)
    y = rotate(x, angles, rotation)
    torch.testing.assert_close(y, rotate_reference(x, angles, rotation), rtol=0, atol=1e-5)
    y.sin().sum().backward()
    assert angles.grad is not None


def test_the_cache_is_not_saved() -> None:
    layer, x = layer_with_cached_rotation(), torch.randn(3, 16)
    before = set(layer.state_dict())
    count_cosines(layer, x)
    assert set(layer.state_dict()) == before
