"""The rotation kept for inference: composed once, never out of date."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_adapters import one_layer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from slm_adapters import ButterflyConfig, ButterflyLayer, Rotation, rotate, rotate_reference

Change = Callable[[ButterflyLayer, nn.Parameter], Any]


class Cosines(TorchDispatchMode):
    """Counts how often cosines are taken: a rotation that is cached takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket is torch.ops.aten.cos
        return func(*args, **(kwargs or {}))


def cosines(layer: ButterflyLayer, x: torch.Tensor) -> int:
    with torch.no_grad(), Cosines() as counter:
        layer(x)
    return counter.count


def test_in_evaluation_a_rotation_is_composed_once() -> None:
    layer, x = one_layer().eval(), torch.randn(3, 16)
    assert cosines(layer, x) > 0
    assert cosines(layer, x) == cosines(layer, 2 * x) == 0
    layer.train()
    assert cosines(layer, x) > 0
    layer.eval()
    assert cosines(layer, x) > 0
    assert cosines(layer, x) == 0


def test_in_evaluation_with_gradients_they_are_those_of_training() -> None:
    layer, x = one_layer().eval(), torch.randn(3, 16)
    cosines(layer, x)
    found = torch.autograd.grad(layer(x).sin().sum(), list(layer.butterfly_input.parameters()))
    layer.train()
    wanted = torch.autograd.grad(layer(x).sin().sum(), list(layer.butterfly_input.parameters()))
    assert torch.equal(found[0], wanted[0])
    assert found[0].abs().max() > 0


def _optimizer_step(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    optimizer = torch.optim.SGD([angles], lr=0.5)
    angles.grad = torch.ones_like(angles)
    optimizer.step()


def _load(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    layer.load_state_dict({name: values + 0.5 for name, values in layer.state_dict().items()})


def _load_by_assignment(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    layer.load_state_dict({name: values + 0.5 for name, values in layer.state_dict().items()}, assign=True)


def _inference_mode(layer: ButterflyLayer, angles: nn.Parameter) -> None:
    with torch.inference_mode():
        angles.add_(0.5)


CHANGES: dict[str, Change] = {
    "optimizer-step": _optimizer_step,
    "copy": lambda layer, angles: angles.copy_(angles + 0.5),
    "add": lambda layer, angles: angles.add_(0.5),
    "load-state-dict": _load,
    "load-by-assignment": _load_by_assignment,
    "data-copy": lambda layer, angles: angles.data.copy_(angles + 0.5),
    "data-add": lambda layer, angles: angles.data.add_(0.5),
    "data-of-another": lambda layer, angles: setattr(angles, "data", angles + 0.5),
    "another-parameter": lambda layer, angles: layer.butterfly_input.update({"default": nn.Parameter(angles + 0.5)}),
    "in-inference-mode": _inference_mode,
    "strength": lambda layer, angles: layer.set_scale("default", 0.5),
    "strength-of-active": lambda layer, angles: layer.scale_layer(0.5),
    "to-float64-and-back": lambda layer, angles: layer.double().float().butterfly_input["default"].data.add_(0.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_cached_rotation_is_dropped_when_its_angles_change(change: Change) -> None:
    layer, x = one_layer("input").eval(), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
        change(layer, layer.butterfly_input["default"])
        found = layer(x)
        wanted = copy.deepcopy(layer).train().eval()(x)  # composes anew
    assert not torch.allclose(wanted, before, atol=1e-3)
    assert torch.equal(found, wanted)


def test_a_cached_rotation_of_one_dtype_is_not_used_for_another() -> None:
    layer, x = one_layer().eval(), torch.randn(3, 16)
    with torch.no_grad():
        layer(x)
        exact = layer.double()(x.double())
        fresh = copy.deepcopy(layer).train().eval()(x.double())
    assert exact.dtype == torch.float64
    assert torch.equal(exact, fresh)
    base = layer.base_layer
    wanted = rotate_reference(x.double(), layer.butterfly_input["default"], Rotation.of(16))
    wanted = rotate_reference(base(wanted), layer.butterfly_output["default"], Rotation.of(32))
    torch.testing.assert_close(exact, wanted.detach(), rtol=0, atol=1e-13)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.gpu
def test_a_cached_rotation_is_not_used_on_another_device() -> None:
    layer, x = one_layer().eval(), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), before, rtol=1e-4, atol=1e-5)


def test_a_name_used_again_never_gets_the_rotation_of_its_past() -> None:
    layer, x = one_layer("input").eval(), torch.randn(3, 16)
    shape = layer.butterfly_input["default"].shape
    memory = np.zeros(shape, dtype=np.float32)  # what is freed may be given out again, to the same name

    def add_again(value: float) -> torch.Tensor:
        memory.fill(value)
        layer.update_layer("again", ButterflyConfig(side="input"))
        layer.butterfly_input["again"] = nn.Parameter(torch.from_numpy(memory))
        layer.set_adapter("again")
        with torch.no_grad():
            found: torch.Tensor = layer(x)
        return found

    before = add_again(0.5)
    layer.delete_adapter("again")
    found = add_again(-0.3)
    with torch.no_grad():
        wanted = copy.deepcopy(layer).train().eval()(x)
    assert not torch.allclose(wanted, before, atol=1e-3)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("width", "mode"),
    [(22, torch.inference_mode), (26, torch.no_grad), (34, FakeTensorMode)],
    ids=["inference", "no-grad", "fake"],
)
def test_training_does_not_mind_what_was_computed_before_it(width: int, mode: Callable[[], Any]) -> None:
    rotation = Rotation.of(width)  # a width of this test's own: nothing is kept of it from others
    with mode():
        rotate(torch.zeros(2, width), torch.zeros(rotation.angle_shape), rotation)
    x, angles = torch.randn(2, width), torch.randn(rotation.angle_shape, requires_grad=True)
    y = rotate(x, angles, rotation)
    torch.testing.assert_close(y, rotate_reference(x, angles, rotation), rtol=0, atol=1e-5)
    y.sin().sum().backward()
    assert angles.grad is not None


def test_a_cache_is_no_part_of_what_is_saved() -> None:
    layer, x = one_layer().eval(), torch.randn(3, 16)
    before = set(layer.state_dict())
    cosines(layer, x)
    assert set(layer.state_dict()) == before
