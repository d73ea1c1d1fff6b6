"""DropoutAttention computes torch's attention with dropout, and is used in training only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from slm_train.model.dropout_attention import DropoutAttention, dropout_attention
from slm_train.model.fast_dropout import VALUES

attend = nn.functional.scaled_dot_product_attention


def problem(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    shape = (3, 17, 2, 8)  # batch, tokens, heads, width of a head, as projections give them
    return [torch.randn(shape, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def document_mask() -> Tensor:
    """Causal, with two documents in the first row, and a token of the last that may see nothing."""
    mask = torch.ones(3, 1, 17, 17, dtype=torch.bool).tril()
    mask[0, :, 9:, :9] = False
    mask[2, :, 4] = False
    return mask


def reference(states: list[Tensor], mask: Tensor, kept: Tensor, p: float, scale: float) -> Tensor:
    scores = (states[0] @ states[1].transpose(2, 3) * scale).masked_fill(~mask, -torch.inf)
    weights = torch.nan_to_num(torch.softmax(scores, -1))
    return weights * kept / (1 - p) @ states[2]


def kept_weights(p: float) -> Tensor:
    """Return which weights the next call keeps: equal scores and identity values return the weights."""
    values = torch.eye(17, dtype=torch.float64).repeat(3, 2, 1, 1).requires_grad_()
    equal = torch.zeros_like(values)
    with DropoutAttention():
        return attend(equal, equal, values, dropout_p=p).detach() != 0


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("masked", [True, False])
def test_outputs_and_gradients_are_those_of_the_definition(masked: bool, scale: float | None) -> None:
    states, p = problem(), 1 / 4
    mask = document_mask() if masked else torch.ones(17, 17, dtype=torch.bool).tril().expand(3, 1, 17, 17)
    named: dict[str, Any] = {"attn_mask": mask} if masked else {"is_causal": True}
    state = torch.get_rng_state()
    kept = kept_weights(p)
    torch.set_rng_state(state)
    with DropoutAttention():
        output = attend(*states, dropout_p=p, scale=scale, **named)
    expected = reference(states, mask, kept, p, scale or 8**-0.5)
    torch.testing.assert_close(output, expected)
    outer = torch.randn_like(output)
    ours, theirs = (torch.autograd.grad(y, states, outer) for y in (output, expected))
    for our_value, their_value in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our_value, their_value)


def test_under_autocast_it_is_as_exact_as_the_kernel_without_dropout() -> None:
    states, p = problem(torch.float32), 1 / VALUES  # with this seed nothing is dropped
    torch.manual_seed(1)
    truth = attend(*(each.double() for each in states), is_causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        usual = attend(*states, is_causal=True)
        with DropoutAttention():
            ours = attend(*states, is_causal=True, dropout_p=p)
    assert ours.dtype == torch.bfloat16
    errors = [float((output.double() - truth).detach().norm() / truth.detach().norm()) for output in (ours, usual)]
    assert errors[0] < 1.2 * errors[1]


@pytest.mark.parametrize(
    "named",
    [{"dropout_p": 0.0}, {"attn_mask": torch.zeros(17, 17), "dropout_p": 0.3}],
    ids=["no dropout", "float mask"],
)
def test_other_calls_are_left_alone(named: dict[str, Any]) -> None:
    states = problem(torch.float32)
    results = []
    for context in (DropoutAttention(), torch.autograd.set_detect_anomaly(mode=False)):
        torch.manual_seed(0)
        with context:
            results.append(attend(*states, **named))
    assert torch.equal(*results)


@pytest.mark.parametrize("flag", ["gradient_checkpointing", "fsdp", "deepspeed", "torch_compile"])
def test_it_is_used_on_a_plain_cpu_run_only(flag: str) -> None:
    flags = dict.fromkeys(("gradient_checkpointing", "fsdp", "deepspeed", "torch_compile"), False)
    run: Any = SimpleNamespace(device=torch.device("cpu"), **flags)
    assert dropout_attention(run)
    assert dropout_attention(SimpleNamespace(device=torch.device("cuda"), **flags)) is None
    setattr(run, flag, True)
    assert dropout_attention(run) is None
