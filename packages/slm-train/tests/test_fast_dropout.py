"""FastDropout drops the right share, scales what it keeps, and repeats itself from the generator's state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from slm_train.model.fast_dropout import FastDropout, use_fast_dropout


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_scale_and_gradient(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(401, 503, dtype=dtype, requires_grad=True)  # not a multiple of the four masks of a draw
    y = FastDropout(p)(x)
    assert y.dtype == dtype
    kept = y != 0
    standard_error = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(1 - kept.double().mean().item() - p) < 5 * standard_error
    torch.testing.assert_close(y[kept].float(), torch.full_like(y[kept].float(), 1 / (1 - p)), rtol=4e-3, atol=0)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (FastDropout(0.5)(torch.ones(400_000)) != 0).double() - 0.5
    for distance in (1, 2, 3, 4):  # the elements of a draw, and of the next
        assert abs((kept[:-distance] * kept[distance:]).mean().item()) < 5 * 0.25 / 400_000**0.5


def test_the_state_of_the_generator_repeats_the_mask() -> None:
    layer, x = FastDropout(0.3), torch.ones(1000)
    state = torch.get_rng_state()
    first, second = layer(x), layer(x)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer(x), second)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_nothing_and_everything(p: float) -> None:
    assert torch.equal(FastDropout(p)(torch.ones(10)), torch.full((10,), 1 - p))


def test_evaluation_is_the_identity() -> None:
    x = torch.randn(10)
    assert FastDropout(0.5).eval()(x) is x


def test_layers_are_replaced_with_their_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)).eval(), nn.AlphaDropout(0.1))
    use_fast_dropout(model)
    first, inner, other = model[0], model[1][0], model[2]
    assert (type(first), first.p, first.training) == (FastDropout, 0.2, True)
    assert (type(inner), inner.p, inner.training) == (FastDropout, 0.3, False)
    assert type(other) is nn.AlphaDropout
