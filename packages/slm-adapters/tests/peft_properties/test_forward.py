"""What an adapted model computes: the base at the start, something else later, in every dtype and mode."""

import pytest
import torch

from slm_testing.adapters.peft_cases import CASES, Case, each_case, each_case_and_control, parametrized, perturb
from slm_testing.adapters.peft_models import model_inputs, outputs

HALF = [torch.float16, torch.bfloat16]


@each_case_and_control
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_before_training_the_output_is_the_base_bit_for_bit(case: Case, dtype: torch.dtype) -> None:
    expected, adapted = case.outputs(case.base(dtype)), case.start(dtype)
    for training in (False, True):
        adapted.train(training)
        assert torch.equal(case.outputs(adapted), expected)
        assert torch.equal(outputs(adapted, model_inputs(case.model)), expected)  # with gradients


@parametrized({name: case for name, case in CASES.items() if "angle_dropout" not in case.settings})
def test_training_mode_computes_what_eval_mode_computes(case: Case) -> None:
    adapted = case.adapted()
    expected = outputs(adapted, model_inputs(case.model))
    assert torch.equal(outputs(adapted.train(), model_inputs(case.model)), expected)


def test_dropout_of_angles_acts_in_training_mode_only() -> None:
    case = CASES["regex-dropout"]
    adapted = case.adapted()
    expected = case.outputs(case.adapted(angle_dropout=0.0))
    assert torch.equal(case.outputs(adapted), expected)
    torch.manual_seed(0)
    assert not torch.equal(case.outputs(adapted.train()), case.outputs(adapted))
    assert torch.equal(case.outputs(adapted.eval()), expected)


@each_case
def test_a_trained_adapter_changes_the_output(case: Case) -> None:
    assert not torch.allclose(case.outputs(case.adapted()), case.outputs(case.base()), atol=1e-3)


@each_case
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_half_precision_base_has_an_output_of_its_dtype_close_to_float32(case: Case, dtype: torch.dtype) -> None:
    adapted = case.adapted(dtype)
    actual = case.outputs(adapted)
    assert actual.dtype == dtype
    expected = case.outputs(case.adapted())
    assert (actual.float() - expected).norm() < 6 * torch.finfo(dtype).eps * expected.norm()


@each_case_and_control
def test_rows_of_a_batch_do_not_influence_each_other(case: Case) -> None:
    adapted, x = case.adapted(), model_inputs(case.model)
    with torch.no_grad():
        alone = torch.cat([outputs(adapted, row[None]) for row in x])
    torch.testing.assert_close(case.outputs(adapted), alone, rtol=1e-5, atol=1e-5)


@each_case
def test_the_output_follows_each_change_of_the_adapter(case: Case) -> None:
    adapted = case.adapted()
    first = case.outputs(adapted)  # caches rotations and weights
    perturb(adapted, seed=3)
    second = case.outputs(adapted)
    assert not torch.equal(second, first)
    assert torch.equal(second, case.outputs(adapted.train().eval()))  # which drops the caches
