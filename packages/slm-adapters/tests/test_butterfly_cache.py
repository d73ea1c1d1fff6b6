"""The rotation kept for inference: composed once, never out of date."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_adapters import Tiny, one_layer, stir, stirred
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


def rotation_kept(side: str = "both", **settings: Any) -> ButterflyLayer:
    layer = one_layer(side, **settings).eval()
    layer.cache_weight = False
    return layer


def test_in_evaluation_a_rotation_is_composed_once() -> None:
    layer, x = rotation_kept(), torch.randn(3, 16)
    assert cosines(layer, x) > 0
    assert cosines(layer, x) == cosines(layer, 2 * x) == 0
    layer.train()
    assert cosines(layer, x) > 0
    layer.eval()
    assert cosines(layer, x) > 0
    assert cosines(layer, x) == 0


def test_in_evaluation_with_gradients_they_are_those_of_training() -> None:
    layer, x = rotation_kept(), torch.randn(3, 16)
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
    layer, x = rotation_kept("input"), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        assert torch.equal(layer(x), before)
        change(layer, layer.butterfly_input["default"])
        found = layer(x)
        wanted = copy.deepcopy(layer).train().eval()(x)  # composes anew
    assert not torch.allclose(wanted, before, atol=1e-3)
    assert torch.equal(found, wanted)


def test_a_cached_rotation_of_one_dtype_is_not_used_for_another() -> None:
    layer, x = rotation_kept(), torch.randn(3, 16)
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
    layer, x = rotation_kept(), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        torch.testing.assert_close(layer.cuda()(x.cuda()).cpu(), before, rtol=1e-4, atol=1e-5)


def test_a_name_used_again_never_gets_the_rotation_of_its_past() -> None:
    layer, x = rotation_kept("input"), torch.randn(3, 16)
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
    layer, x = rotation_kept(), torch.randn(3, 16)
    before = set(layer.state_dict())
    cosines(layer, x)
    assert set(layer.state_dict()) == before


def weight_kept(layer: ButterflyLayer) -> ButterflyLayer:
    layer.cache_weight = True
    return layer


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_cached_weight_gives_the_merged_model_bit_for_bit(tiny: Tiny, name: str) -> None:
    adapted = stirred(tiny(name), side="both", scale=True)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        unmerged = adapted(ids).logits
        adapted.cache_weights()
        found, again = adapted(ids).logits, adapted(ids).logits
        adapted.merge_adapter()
        merged = adapted(ids).logits
        adapted.unmerge_adapter()
        assert torch.equal(adapted(ids).logits, merged)
        adapted.cache_weights(False)
        assert torch.equal(adapted(ids).logits, unmerged)
    assert not torch.equal(unmerged, merged)  # they round differently: the weight was used
    assert torch.equal(found, merged)
    assert torch.equal(again, merged)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_cached_weight_is_dropped_when_what_it_was_made_of_changes(change: Change) -> None:
    layer, x = weight_kept(one_layer("input").eval()), torch.randn(3, 16)
    with torch.no_grad():
        before = layer(x)
        assert cosines(layer, x) == 0
        change(layer, layer.butterfly_input["default"])
        found = layer(x)
        wanted = copy.deepcopy(layer).train().eval()(x)
    assert not torch.allclose(wanted, before, atol=1e-3)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("part", ["butterfly_output", "butterfly_magnitude", "weight", "bias"])
def test_a_cached_weight_follows_every_part_of_the_layer(part: str) -> None:
    layer, x = weight_kept(one_layer("both", scale=True).eval()), torch.randn(3, 16)
    changed = getattr(layer.base_layer, part) if part in ("weight", "bias") else getattr(layer, part)["default"]
    with torch.no_grad():
        before = layer(x)
        changed.mul_(1.5)
        found = layer(x)
        wanted = copy.deepcopy(layer).train().eval()(x)
    assert not torch.allclose(wanted, before, atol=1e-3)
    assert torch.equal(found, wanted)


def test_a_cached_weight_is_that_of_the_adapter_in_use(tiny: Tiny) -> None:
    adapted = stirred(tiny("gpt2"), side="input")
    adapted.add_adapter("second", ButterflyConfig(side="output", scale=True))
    stir(adapted, "second", seed=1)
    adapted.eval().cache_weights()
    ids = torch.arange(6)[None]
    with torch.no_grad():
        for names in ("default", "second", "default", ["default", "second"]):
            adapted.base_model.set_adapter(names)
            found = adapted(ids).logits
            adapted.merge_adapter()
            torch.testing.assert_close(found, adapted(ids).logits, rtol=0, atol=0 if isinstance(names, str) else 1e-4)
            adapted.unmerge_adapter()


def test_a_cached_weight_stays_out_of_training_and_of_what_is_saved() -> None:
    layer, x = weight_kept(one_layer().eval()), torch.randn(3, 16)
    names = set(layer.state_dict())
    with torch.no_grad():
        layer(x)
    assert set(layer.state_dict()) == names
    layer(x).sum().backward()  # in eval mode, with gradients
    assert layer.butterfly_input["default"].grad is not None
    layer.train()
    with torch.no_grad():
        assert cosines(layer, x) > 0


@pytest.mark.parametrize("keep", [False, True], ids=["rotation", "weight"])
def test_what_was_made_in_inference_mode_is_cached_too(keep: bool) -> None:
    with torch.inference_mode():  # such tensors count no versions
        layer, x = one_layer().eval(), torch.randn(3, 16)
        layer.cache_weight = keep
        before = layer(x)
        assert cosines(layer, x) == 0
        layer.butterfly_input["default"].add_(0.5)
        assert not torch.allclose(layer(x), before, atol=1e-3)


def test_a_few_tokens_take_the_rotated_weight_by_themselves() -> None:
    layer = one_layer().eval()
    merged = copy.deepcopy(layer)
    merged.merge()
    few, many = torch.randn(2, 4, 16), torch.randn(3, 3, 16)
    with torch.no_grad():
        assert torch.equal(layer(few), merged(few))
        assert cosines(layer, few) == 0
        by_weight, wanted = layer(many), merged(many)
        layer.cache_weight = False
        assert torch.equal(by_weight, layer(many))
    assert not torch.equal(by_weight, wanted)  # they round differently: what many tokens get does not depend on the few


def two_adapters(layer: ButterflyLayer) -> None:
    layer.update_layer("second", ButterflyConfig())


def large(layer: ButterflyLayer) -> None:
    layer._small = False


@pytest.mark.parametrize("change", [two_adapters, large])
def test_what_would_take_much_memory_or_be_made_again_and_again_is_asked_for(
    change: Callable[[ButterflyLayer], None],
) -> None:
    layer, x = one_layer().eval(), torch.randn(1, 16)
    change(layer)
    with torch.no_grad():
        found = layer(x)
        assert layer._kept_layer is None
        layer.cache_weight = True
        assert not torch.equal(layer(x), found)


def test_a_large_layer_is_told_by_its_weights() -> None:
    with torch.device("meta"):
        assert one_layer(features=(2048, 4096))._small
        assert not one_layer(features=(2048, 4097))._small
