"""Training changes the values of the active adapter and nothing else, with any optimizer and checkpointing."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from slm_testing.adapters.peft_cases import (
    CASES,
    Case,
    adapter_parameters,
    each_case,
    each_case_and_control,
    each_causal_case,
    parametrized,
)
from slm_testing.adapters.peft_models import model_inputs, outputs
from slm_testing.adapters.tiny_adapters import assert_same_bits

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adamw": lambda values: torch.optim.AdamW(values, lr=1e-2, weight_decay=0.5),
    "sgd": lambda values: torch.optim.SGD(values, lr=0.5, momentum=0.9, weight_decay=0.5),
}


def loss(model: nn.Module, case: Case) -> torch.Tensor:
    return outputs(model, model_inputs(case.model)).square().mean()


def gradients(model: nn.Module, case: Case) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss(model, case).backward()
    return {name: values.grad.clone() for name, values in model.named_parameters() if values.grad is not None}


def trained_names(model: nn.Module) -> set[str]:
    return {name for name, values in model.named_parameters() if values.requires_grad}


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers, once for each tensor."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: values.detach().clone() for name, values in named}


@each_case_and_control
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_changes_every_tensor_of_the_adapter_and_nothing_else(case: Case, optimizer: MakeOptimizer) -> None:
    adapted = case.adapted().train()
    before = tensors(adapted)
    assert trained_names(adapted) == adapter_parameters(adapted).keys()
    steps = optimizer(adapted.parameters())  # all of them: those of the base get no gradient
    for _ in range(2):
        steps.zero_grad()
        loss(adapted, case).backward()
        steps.step()
    after = tensors(adapted)
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained_names(adapted)
    with adapted.disable_adapter():
        assert torch.equal(case.outputs(adapted.eval()), case.outputs(case.base()))


@each_case_and_control
def test_gradients_reach_the_adapter_and_nothing_else(case: Case) -> None:
    adapted = case.adapted().train()
    reached = gradients(adapted, case)
    assert reached.keys() == adapter_parameters(adapted).keys()
    assert all(values.abs().max() > 0 for values in reached.values())


@each_case
def test_gradients_at_the_start_are_not_zero(case: Case) -> None:
    reached = gradients(case.start().train(), case)
    assert [name for name, values in reached.items() if values.abs().max() == 0] == []


def computes_in_float64(case: Case) -> bool:
    """Whether no dropout and no cast to float32, as in Llama and OPT, disturb small differences of the loss."""
    return case.model not in ("llama", "opt") and "angle_dropout" not in case.settings


@parametrized({name: case for name, case in CASES.items() if computes_in_float64(case)})
def test_gradients_are_those_of_finite_differences(case: Case) -> None:
    adapted = case.adapted(torch.float64).train()
    for values in adapter_parameters(adapted).values():
        values.data = values.data.double()
    reached = gradients(adapted, case)
    direction = {name: torch.randn_like(values) for name, values in reached.items()}
    expected = sum(float((reached[name] * direction[name]).sum()) for name in reached)
    step, losses = 1e-5, []
    for sign in (1, -1):
        moved = copy.deepcopy(adapted)
        with torch.no_grad():
            for name, values in adapter_parameters(moved).items():
                values.add_(direction[name], alpha=sign * step)
            losses.append(float(loss(moved, case)))
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=1e-4, abs=1e-9)


@each_causal_case
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(case: Case, use_reentrant: bool) -> None:
    adapted = case.adapted().train()
    expected = gradients(adapted, case)
    adapted.enable_input_require_grads()
    adapted.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_same_bits(gradients(adapted, case), expected)


@each_case_and_control
def test_switching_adapters_switches_what_is_trained(case: Case) -> None:
    adapted = case.adapted()
    case.add(adapted, "second")
    for name in ("second", "default"):
        adapted.set_adapter(name)
        assert trained_names(adapted) == set(adapter_parameters(adapted, name))
        reached = gradients(adapted.train(), case)
        assert reached.keys() == adapter_parameters(adapted, name).keys()
        adapted.zero_grad()
    adapted.set_adapter("second", inference_mode=True)
    assert trained_names(adapted) == set()
    adapted.set_requires_grad("second")
    assert trained_names(adapted) == set(adapter_parameters(adapted, "second"))
    adapted.set_requires_grad(["default", "second"], requires_grad=False)
    assert trained_names(adapted) == set()


@each_case_and_control
@pytest.mark.parametrize("is_trainable", [False, True])
def test_a_loaded_adapter_is_trained_only_on_request(case: Case, is_trainable: bool, tmp_path: Path) -> None:
    case.adapted().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(case.base(), tmp_path, is_trainable=is_trainable)
    assert trained_names(loaded) == (set(adapter_parameters(loaded)) if is_trainable else set())
    assert loaded.peft_config["default"].inference_mode is not is_trainable
    loaded.load_adapter(tmp_path, "second", is_trainable=is_trainable)
    loaded.set_adapter("second", inference_mode=not is_trainable)
    assert trained_names(loaded) == (set(adapter_parameters(loaded, "second")) if is_trainable else set())


@each_case_and_control
def test_a_configuration_for_inference_trains_nothing(case: Case) -> None:
    assert trained_names(case.start(inference_mode=True)) == set()


@parametrized({name: CASES[name] for name in ("stages-strength", "score-tokens", "llama")})
def test_freezing_during_training_keeps_what_was_trained(case: Case) -> None:
    adapted = case.adapted()
    case.add(adapted, "second")
    before = {name: values.detach().clone() for name, values in adapter_parameters(adapted).items()}
    adapted.set_adapter("second")
    steps = torch.optim.AdamW(adapted.parameters(), lr=1e-2, weight_decay=0.5)
    loss(adapted.train(), case).backward()
    steps.step()
    assert_same_bits({name: values.detach() for name, values in adapter_parameters(adapted).items()}, before)
