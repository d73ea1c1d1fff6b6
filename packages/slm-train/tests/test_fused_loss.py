"""The fused loss equals the usual one in value and gradients, and is not installed where it would differ."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.activations import NewGELUActivation

from slm_data import IGNORE_INDEX
from slm_train.losses.fused_loss import FusedLoss
from slm_train.losses.linear_cross_entropy import (
    _turn_into_gradient,
    _turn_into_gradient_in_few_passes,
    linear_cross_entropy,
)
from slm_train.model.single_kernel_gelu import single_kernel_gelu

TOKENS = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2} | TOKENS


def problem(tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(tokens * 1000 + vocabulary)
    hidden = torch.randn(tokens, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocabulary, (tokens,))
    targets[torch.rand(tokens) < 0.3] = IGNORE_INDEX
    return hidden, weight, targets


def usual(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> list[Tensor]:
    logits = functional.linear(hidden, weight)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    loss = functional.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum") * scale
    return [loss, *torch.autograd.grad(loss, (hidden, weight))]


def fused(hidden: Tensor, weight: Tensor, targets: Tensor, scale: float) -> list[Tensor]:
    loss = linear_cross_entropy(hidden, weight, targets, torch.tensor(scale))
    return [loss, *torch.autograd.grad(loss, (hidden, weight))]


@given(
    tokens=st.integers(1, 40),
    width=st.integers(1, 9),
    vocabulary=st.integers(2, 50),
    gradient_bytes=st.integers(1, 9000),
    cache_bytes=st.integers(1, 3000),
)
def test_loss_and_gradients_equal_those_of_a_separate_output_layer_and_loss(
    tokens: int, width: int, vocabulary: int, gradient_bytes: int, cache_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slm_train.losses.linear_cross_entropy.MAX_GRADIENT_BYTES", gradient_bytes)
        patch.setattr("slm_train.losses.linear_cross_entropy.CACHE_BYTES", cache_bytes)
        inputs = problem(tokens, width, vocabulary, torch.float64)
        for ours, theirs in zip(fused(*inputs, 0.25), usual(*inputs, 0.25), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_fused_loss_is_as_exact_as_the_usual_one(dtype: torch.dtype) -> None:
    hidden, weight, targets = problem(200, 32, 300, torch.float32)
    truth = usual(hidden.double(), weight.double(), targets, 1 / 200)
    with torch.autocast("cpu", dtype):
        ours, theirs = fused(hidden, weight, targets, 1 / 200), usual(hidden, weight, targets, 1 / 200)
    for our_value, their_value, exact in zip(ours, theirs, truth, strict=True):
        error, usual_error = (
            float((value.double() - exact).detach().norm() / exact.detach().norm())
            for value in (our_value, their_value)
        )
        assert error <= 1.1 * usual_error + 1e-5


def test_a_frozen_output_layer_gets_no_gradient() -> None:
    hidden, weight, targets = problem(10, 4, 12, torch.float32)
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets, torch.tensor(1.0)).backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_a_second_backward_is_refused() -> None:
    hidden, weight, targets = problem(10, 4, 12, torch.float32)
    loss = linear_cross_entropy(hidden, weight, targets, torch.tensor(1.0))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward runs once"):
        loss.backward()


@pytest.mark.parametrize("build", [lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, **TOKENS)),
                                   lambda: LlamaForCausalLM(LlamaConfig(**SHAPE))], ids=["gpt2", "llama"])  # fmt: skip
def test_a_model_with_a_plain_output_layer_computes_no_logits_while_it_is_active(build: object) -> None:
    assert callable(build)
    model = build().eval()
    ids = torch.arange(1, 21).reshape(2, 10)
    before = model(input_ids=ids, labels=ids, use_cache=False)
    fused_loss = FusedLoss.fitting(model)
    assert fused_loss is not None
    with fused_loss():
        inside = model(input_ids=ids, labels=ids, use_cache=False)
    after = model(input_ids=ids, labels=ids, use_cache=False)
    assert inside.logits.shape[-1] == 32
    torch.testing.assert_close(inside.loss, before.loss)
    assert torch.equal(after.logits, before.logits)


def test_a_model_that_changes_its_logits_is_not_touched() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=16, num_key_value_heads=1, final_logit_softcapping=2.0))
    forward, loss = model.lm_head.forward, model.loss_function
    ids = torch.arange(1, 11)[None]
    with torch.no_grad():
        before = model.eval()(input_ids=ids, labels=ids).loss
        assert FusedLoss.fitting(model) is None
        assert torch.equal(model(input_ids=ids, labels=ids).loss, before)
    assert (model.lm_head.forward, model.loss_function) == (forward, loss)


def test_gelu_in_one_kernel_has_the_same_values_and_gradients() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, **TOKENS)).double().eval()
    fast = single_kernel_gelu(copy.deepcopy(model))
    assert any(isinstance(layer, NewGELUActivation) for layer in model.modules())
    assert not any(isinstance(layer, NewGELUActivation) for layer in fast.modules())
    ids = torch.arange(1, 21).reshape(2, 10)
    for variant in (model, fast):
        variant(input_ids=ids, labels=ids).loss.backward()
    for slow_weight, fast_weight in zip(model.parameters(), fast.parameters(), strict=True):
        assert slow_weight.grad is not None
        torch.testing.assert_close(fast_weight.grad, slow_weight.grad, rtol=1e-9, atol=1e-12)
    assert fast.config.activation_function == "gelu_new"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("turn", [_turn_into_gradient, _turn_into_gradient_in_few_passes])
def test_logits_become_the_gradient_of_their_loss(turn: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, targets = (4 * torch.randn(7, 50)).to(dtype), torch.randint(50, (7,))
    targets[[2, 5]] = IGNORE_INDEX
    exact = logits.double().clone().requires_grad_()
    expected = functional.cross_entropy(exact, targets, reduction="sum")
    expected.backward()
    loss = turn(logits, targets, torch.promote_types(dtype, torch.float32))
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-6, atol=0)
    tolerance = 4e-3 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(logits.double(), exact.grad, rtol=tolerance, atol=1e-7)
    assert not logits[[2, 5]].any()


class Passes(TorchDispatchMode):
    """Counts the operations that read or write a tensor of ``size`` numbers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.names = size, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(value, torch.Tensor) and value.numel() == self.size for value in args):
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_gpu_passes_over_the_logits_four_times_instead_of_seven() -> None:
    passes = []
    for turn in (_turn_into_gradient, _turn_into_gradient_in_few_passes):
        logits, targets = torch.randn(4, 30).bfloat16(), torch.arange(4)
        with Passes(logits.numel()) as mode:
            turn(logits, targets, torch.float32)
        passes.append([name for name in mode.names if name not in ("gather", "scatter_add_")])  # a number of each row
    assert passes == [
        ["_to_copy", "amax", "sub_", "exp_", "sum", "mul_", "copy_"],
        ["_to_copy", "_log_softmax", "exp_", "mul"],
    ]
