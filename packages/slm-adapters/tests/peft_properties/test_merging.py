"""Merging computes the same within rounding; unmerging and unloading restore every bit of the base."""

import pytest
import torch
from torch import Tensor, nn

from slm_testing.adapters.peft_cases import Case, each_case, each_case_and_control, each_case_without_copies
from slm_testing.adapters.tiny_adapters import assert_same_bits, copy_state, layers

# Largest difference between merged and unmerged, as a share of the largest output.
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}


def assert_within(actual: Tensor, expected: Tensor, bound: float) -> None:
    assert (actual - expected).abs().max() <= bound * expected.abs().max()


def module_types(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


@each_case
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_merged_computes_the_same_and_unmerging_restores_every_bit(case: Case, dtype: torch.dtype) -> None:
    adapted = case.adapted(dtype)
    before, expected = copy_state(adapted), case.outputs(adapted)
    adapted.merge_adapter()
    merged = case.outputs(adapted)
    assert merged.dtype == dtype
    assert_within(merged, expected, BOUNDS[dtype])
    after = adapted.state_dict()
    changed = {name.rpartition(".base_layer.")[0] for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if not name.endswith("token_adapter")} == layers(adapted).keys()
    adapted.unmerge_adapter()
    assert_same_bits(copy_state(adapted), before)
    assert torch.equal(case.outputs(adapted), expected)


@each_case
def test_all_ways_to_merge_give_the_same_bits(case: Case) -> None:
    adapted = case.adapted().train()  # where dropout of angles must have no effect
    adapted.merge_adapter()
    once = copy_state(adapted)
    adapted.merge_adapter()
    assert_same_bits(copy_state(adapted), once)
    adapted.unmerge_adapter()
    adapted.merge_adapter(["default"], safe_merge=True)
    assert_same_bits(copy_state(adapted), once)
    adapted.unmerge_adapter()
    plain = copy_state(case.adapted().merge_and_unload())
    assert_same_bits(copy_state(adapted.merge_and_unload(safe_merge=True, progressbar=True)), plain)


@each_case
def test_merge_and_unload_returns_a_plain_model(case: Case) -> None:
    adapted, base = case.adapted(), case.base()
    expected = case.outputs(adapted)
    plain = adapted.merge_and_unload()
    assert module_types(plain) == module_types(base)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in base.named_parameters()]
    assert_within(case.outputs(plain), expected, BOUNDS[torch.float32])


@each_case_and_control
def test_unloading_returns_the_base_with_its_trained_copies(case: Case) -> None:
    """PEFT's ``unload`` keeps what ``modules_to_save`` trained."""
    adapted, base = case.adapted(), case.base()
    trained = {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default", ""): values.detach().clone()
        for name, values in adapted.named_parameters()
        if ".modules_to_save.default." in name
    }
    assert bool(trained) == ("modules_to_save" in case.settings)
    plain = adapted.unload()
    assert module_types(plain) == module_types(base)
    assert_same_bits(copy_state(plain), copy_state(base) | trained)


@each_case
def test_unloading_a_merged_model_keeps_the_merged_weights(case: Case) -> None:
    adapted = case.adapted()
    adapted.merge_adapter()
    assert_same_bits(copy_state(adapted.unload()), copy_state(case.adapted().merge_and_unload()))


@each_case_without_copies
def test_adapters_merged_one_by_one_are_those_merged_together(case: Case) -> None:
    adapted = case.adapted()
    case.add(adapted, "second")
    before = copy_state(adapted)
    adapted.merge_adapter(["default", "second"])
    together = copy_state(adapted)
    adapted.unmerge_adapter()
    adapted.merge_adapter(["default"])
    adapted.merge_adapter(["second"])
    assert_same_bits(copy_state(adapted), together)
    adapted.unmerge_adapter()
    assert_same_bits(copy_state(adapted), before)


@each_case
def test_a_merged_adapter_cannot_be_deleted_and_stays_as_it_was(case: Case) -> None:
    adapted = case.adapted()
    adapted.merge_adapter()
    before, expected = copy_state(adapted), case.outputs(adapted)
    with pytest.raises(ValueError, match="merged"):
        adapted.delete_adapter("default")
    assert_same_bits(copy_state(adapted), before)
    assert torch.equal(case.outputs(adapted), expected)
    adapted.unmerge_adapter()
    assert torch.equal(case.outputs(adapted), case.outputs(case.adapted()))
