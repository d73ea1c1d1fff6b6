"""Training butterfly adapters: start at the base, gradients, autocast, checkpointing, compilation, memory."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from slm_adapters import ButterflyLayer, Rotation, rotate, rotate_reference
from slm_testing.adapters.tiny_adapters import (
    MakeModel,
    all_models,
    butterfly,
    butterfly_layer,
    random_butterfly,
    randomize_angles,
)

Change = Callable[[ButterflyLayer, nn.Parameter], Any]


def loss(model: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    actual: torch.Tensor = model(input_ids=input_ids, labels=input_ids, use_cache=False).loss
    return actual


def gradients(model: nn.Module, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss(model, input_ids).backward()
    return {name: values.grad.clone() for name, values in model.named_parameters() if values.grad is not None}


def no_dropout(model: nn.Module) -> nn.Module:
    """Turn dropout off: with GPT-2's, two passes differ."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.train()


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float) -> None:
    assert actual.keys() == expected.keys() != set()
    assert max(float(values.abs().max()) for values in actual.values()) > 100 * atol
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=atol)


@all_models
@pytest.mark.parametrize(
    "settings",
    [{"side": "both", "scale": True}, {"side": "auto", "block_size": 16, "stages": 6, "strength": 0.5}],
    ids=str,
)
def test_gradients_equal_those_of_the_reference(
    tiny: MakeModel, name: str, settings: dict[str, Any], input_ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapted = no_dropout(random_butterfly(tiny(name).double(), **settings))
    fast = gradients(adapted, input_ids)
    called = []

    def slow(layer: ButterflyLayer, x: torch.Tensor, side: str, adapter: str) -> torch.Tensor:
        rotation = layer.rotations[adapter].get(side)
        called.append(rotation)
        angles = getattr(layer, side)[adapter] * layer.strength[adapter] if rotation else None
        return x if rotation is None else rotate_reference(x, angles, rotation)

    monkeypatch.setattr(ButterflyLayer, "_rotated", slow)
    assert_close(fast, gradients(adapted, input_ids), atol=1e-12)
    assert called
    assert all(".butterfly_" in at for at in fast)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_under_autocast_angles_and_their_gradients_stay_float32(
    tiny: MakeModel, name: str, input_ids: torch.Tensor
) -> None:
    adapted = no_dropout(random_butterfly(tiny(name), side="both", scale=True))
    full_precision = gradients(adapted, input_ids)
    with torch.autocast("cpu", torch.bfloat16):
        half_precision = gradients(adapted, input_ids)
    assert {values.dtype for values in half_precision.values()} == {torch.float32}
    assert {values.dtype for key, values in adapted.named_parameters() if "butterfly_" in key} == {torch.float32}
    half_flat, full_flat = (
        torch.cat([gradient_set[key].flatten() for key in full_precision])
        for gradient_set in (half_precision, full_precision)
    )
    assert not torch.equal(half_flat, full_flat)
    assert torch.nn.functional.cosine_similarity(half_flat, full_flat, dim=0) > 0.99


def test_the_rotation_itself_runs_in_the_dtype_of_autocast() -> None:
    rotation, x = Rotation.of(64), torch.randn(2, 64)
    angles = torch.randn(rotation.angle_shape, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        turned = rotate(x, angles, rotation)
    assert turned.dtype == torch.bfloat16
    exact = rotate_reference(x.double(), angles.detach().double(), rotation)
    assert (turned.double() - exact).norm() / exact.norm() < 2 * torch.finfo(torch.bfloat16).eps
    turned.float().square().sum().backward()
    assert angles.grad is not None
    assert angles.grad.dtype == torch.float32


@pytest.mark.parametrize("settings", [{}, {"block_size": 4, "stages": 3, "scale": True, "strength": 0.5}], ids=str)
def test_a_layer_compiles_without_a_break_and_computes_the_same(settings: dict[str, Any]) -> None:
    torch._dynamo.reset()
    layer = butterfly_layer(features=(8, 12), **settings).train()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 5, 8, requires_grad=True)

    def passed(model: Any) -> tuple[torch.Tensor, ...]:
        layer.zero_grad()
        y = model(x)
        expected = [values for values in layer.parameters() if values.requires_grad]
        return y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *expected])

    actual, expected = passed(compiled), passed(layer)
    assert len(actual) == len(expected) == 4 + ("scale" in settings)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_layer_compiles_for_evaluation_and_sees_new_angles() -> None:
    torch._dynamo.reset()
    layer = butterfly_layer("input", (8, 12)).eval()
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(3, 8)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
        before = layer(x)
        randomize_angles(layer, seed=1)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(layer(x), before, atol=1e-3)


def test_a_whole_model_compiles_and_has_the_same_gradients(tiny: MakeModel, input_ids: torch.Tensor) -> None:
    torch._dynamo.reset()
    adapted = no_dropout(
        random_butterfly(tiny("llama"), side="both", block_size=8, target_modules=r".*layers\.0\..*up_proj")
    )
    plain = gradients(adapted, input_ids)
    adapted.base_model.model.model.forward = torch.compile(
        adapted.base_model.model.model.forward, fullgraph=True, backend="aot_eager"
    )
    assert_close(gradients(adapted, input_ids), plain, atol=1e-6)


def test_a_rotation_saves_only_its_input_and_angles_for_the_backward_pass() -> None:
    rotation = Rotation.of(768)
    x, angles = torch.randn(64, 768, requires_grad=True), torch.randn(rotation.angle_shape, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        rotate(x, angles, rotation)
    assert sorted(tensor.data_ptr() for tensor in saved) == sorted([x.data_ptr(), angles.data_ptr()])


def test_a_layer_saves_one_activation_for_each_side_for_the_backward_pass() -> None:
    layer = butterfly_layer(features=(32, 64)).train()
    x, saved_numbers = torch.randn(1000, 32, requires_grad=True), 0

    def count_saved(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal saved_numbers
        saved_numbers += tensor.numel() if tensor.shape[0] == 1000 or tensor.shape[-1] == 1000 else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count_saved, lambda tensor: tensor):
        layer(x)
    assert saved_numbers == 1000 * (32 + 64)


def steps(model: nn.Module, input_ids: torch.Tensor, count: int) -> Iterator[float]:
    trained = [values for values in model.parameters() if values.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-2, weight_decay=0)
    for _ in range(count):
        optimizer.zero_grad()
        actual = loss(model, input_ids)
        actual.backward()
        optimizer.step()
        yield float(actual.detach())


@all_models
def test_training_lowers_the_loss_and_leaves_the_base(tiny: MakeModel, name: str, input_ids: torch.Tensor) -> None:
    adapted = no_dropout(butterfly(tiny(name), side="both", block_size=16))
    losses = list(steps(adapted, input_ids, 12))
    assert losses[-1] < 0.9 * losses[0]
    angles = [values for at, values in adapted.named_parameters() if "butterfly_" in at]
    assert all(values.abs().max() > 0 for values in angles)
    base = tiny(name).state_dict()
    plain = adapted.unload().state_dict()
    assert base.keys() == plain.keys()
    assert all(torch.equal(values, plain[at]) for at, values in base.items())
