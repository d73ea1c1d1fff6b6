"""Layers that compose their rotations together under every use of autograd, compared with each layer alone."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from slm_adapters.butterfly.method.inference_cache import TensorSnapshot
from slm_testing.adapters.chains import chain, cosines, gradients, inputs, loss, one_by_one
from slm_testing.adapters.tiny_adapters import assert_same_bits, randomize_angles


def test_two_losses_of_one_forward_pass_add_up() -> None:
    model = chain()
    x = model(inputs())
    both = gradients(model, x.square().sum(), x.cos().sum(), retain_graph=True)
    apart = [gradients(model, f(model(inputs())).sum()) for f in (torch.square, torch.cos)]
    assert_same_bits(both, {name: apart[0][name] + apart[1][name] for name in both})


def test_two_forward_passes_before_a_backward_pass_each_use_their_own_angles() -> None:
    model = chain()
    expected = one_by_one(model, loss)
    first = loss(model)
    randomize_angles(model, seed=5)
    second = loss(model, seed=2)
    assert_same_bits(gradients(model, first), expected)
    assert_same_bits(gradients(model, second), one_by_one(model, lambda alone: loss(alone, seed=2)))


def test_a_layer_that_is_not_called_has_no_gradient() -> None:
    model = chain()
    for skipped in ({1, 3}, {0}, set()):
        model.skipped = skipped
        actual = gradients(model, loss(model))
        assert {name for name in actual if int(name.split(".")[1]) in skipped} == set()
        assert_same_bits(actual, one_by_one(model, loss))


def test_hooks_of_parameters_see_the_gradients_of_called_layers_only() -> None:
    model, seen = chain(), list[str]()
    model.skipped = {2}

    def note(name: str, gradient: torch.Tensor) -> torch.Tensor:
        seen.append(name)
        return 2 * gradient

    plain = gradients(model, loss(model))
    for name, values in model.named_parameters():
        if values.requires_grad:
            values.register_hook(lambda gradient, name=name: note(name, gradient))
    doubled = gradients(model, loss(model))
    assert sorted(seen) == sorted(plain)
    assert_same_bits(doubled, {name: 2 * values for name, values in plain.items()})


def test_a_frozen_layer_has_no_gradient_and_the_others_keep_theirs() -> None:
    model = chain()
    expected = gradients(model, loss(model))
    model.layers[1].requires_grad_(False)
    actual = gradients(model, loss(model))
    assert_same_bits(actual, {name: values for name, values in expected.items() if not name.startswith("layers.1.")})
    model.requires_grad_(False)
    assert not loss(model).requires_grad
    model.layers[0].butterfly_input.requires_grad_(True)
    assert list(gradients(model, loss(model))) == ["layers.0.butterfly_input.default"]


def test_the_gradient_of_one_parameter_can_be_taken() -> None:
    model = chain()
    expected = gradients(model, loss(model))
    name, values = next((n, p) for n, p in model.named_parameters() if n.endswith("2.butterfly_output.default"))
    (actual,) = torch.autograd.grad(loss(model), values)
    assert torch.equal(actual, expected[name])


def test_a_layer_called_twice_adds_its_gradients() -> None:
    model = chain(3)

    def run(chained: nn.Module) -> torch.Tensor:
        layers: Any = chained.layers
        values: torch.Tensor = layers[1](layers[2](layers[1](layers[0](inputs())))).square().sum()
        return values

    actual, expected = gradients(model, run(model)), one_by_one(model, run)
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("counted", [False, True], ids=["cpu", "as-on-a-gpu"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_gives_the_same_bits(
    reentrant: bool, counted: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if counted:
        monkeypatch.setattr(TensorSnapshot, "of_copy", lambda tensor, _: TensorSnapshot.of_memory(tensor))
    model = chain(angle_dropout=dropout)

    def run(chained: Any, *, checkpointed: bool) -> torch.Tensor:
        torch.manual_seed(7)
        x = inputs().requires_grad_()
        for layer in chained.layers:
            x = checkpoint(layer, x, use_reentrant=reentrant) if checkpointed else layer(x)
        return x.square().sum()

    for _ in range(2):
        plain = gradients(model, run(model, checkpointed=False))
        assert_same_bits(gradients(model, run(model, checkpointed=True)), plain)


def test_recomputation_does_not_compose_again() -> None:
    def run(model: Any) -> torch.Tensor:
        x = inputs().requires_grad_()
        for layer in model.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return x.square().sum()

    model = chain()
    assert cosines(model, run) == cosines(chain())
