"""A disabled adapter leaves the base bit for bit, however it was disabled and whatever was merged."""

from contextlib import ExitStack

import pytest
import torch

from slm_testing.adapters.peft_cases import CASES, Case, each_case, each_case_and_control
from slm_testing.adapters.peft_models import model_inputs, outputs


def trained_names(model: torch.nn.Module) -> set[str]:
    return {name for name, values in model.named_parameters() if values.requires_grad}


@each_case_and_control
@pytest.mark.parametrize("depth", [1, 2])
def test_a_disabled_adapter_leaves_the_base_bit_for_bit(case: Case, depth: int) -> None:
    adapted, base = case.adapted(), case.outputs(case.base())
    expected, trained = case.outputs(adapted), trained_names(adapted)
    with ExitStack() as contexts:
        for _ in range(depth):
            contexts.enter_context(adapted.disable_adapter())
            assert torch.equal(case.outputs(adapted), base)
    assert torch.equal(case.outputs(adapted), expected)
    assert trained_names(adapted) == trained


@each_case
def test_disabling_a_merged_adapter_leaves_the_base_bit_for_bit(case: Case) -> None:
    adapted, base = case.adapted(), case.outputs(case.base())
    expected = case.outputs(adapted)
    adapted.merge_adapter()
    with adapted.disable_adapter():
        assert torch.equal(case.outputs(adapted), base)
    assert torch.equal(case.outputs(adapted), expected)


@each_case_and_control
def test_an_error_inside_the_context_enables_the_adapter_again(case: Case) -> None:
    adapted = case.adapted()
    expected = case.outputs(adapted)
    with pytest.raises(KeyError), adapted.disable_adapter():
        raise KeyError
    assert torch.equal(case.outputs(adapted), expected)


@each_case
def test_layers_can_be_disabled_and_enabled_without_a_context(case: Case) -> None:
    adapted = case.adapted()
    expected = case.outputs(adapted)
    adapted.base_model.disable_adapter_layers()
    assert torch.equal(case.outputs(adapted), case.outputs(case.base()))
    assert adapted.get_model_status().enabled is False
    adapted.base_model.enable_adapter_layers()
    assert torch.equal(case.outputs(adapted), expected)


@each_case_and_control
def test_a_disabled_adapter_gets_no_gradients(case: Case) -> None:
    adapted = case.adapted().train()
    with adapted.disable_adapter():
        assert not outputs(adapted, model_inputs(case.model)).requires_grad
        assert trained_names(adapted) == set()


def test_the_second_of_two_adapters_is_active_again_after_the_context() -> None:
    case = CASES["stages-strength"]
    adapted = case.adapted()
    case.add(adapted, "second")
    adapted.set_adapter("second")
    expected = case.outputs(adapted)
    with adapted.disable_adapter():
        adapted.set_adapter("default")
        assert torch.equal(case.outputs(adapted), case.outputs(case.base()))
        adapted.set_adapter("second")
    assert torch.equal(case.outputs(adapted), expected)
    assert adapted.active_adapters == ["second"]
