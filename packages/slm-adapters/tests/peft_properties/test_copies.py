"""Copies of an adapted model compute the same and share nothing with it; its text shows the method and the base."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel

from slm_testing.adapters.peft_cases import Case, each_case, each_case_and_control, perturb
from slm_testing.adapters.tiny_adapters import assert_same_bits, copy_state, layers

Copy = Callable[[PeftModel], PeftModel]


def by_torch(model: PeftModel) -> PeftModel:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: PeftModel = torch.load(file, weights_only=False)
    return loaded


COPIES: dict[str, Copy] = {
    "deepcopy": copy.deepcopy,
    "pickle": by_torch,
}


@each_case_and_control
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_computes_the_same_and_shares_nothing(case: Case, copied: Copy) -> None:
    adapted = case.adapted()
    expected, before = case.outputs(adapted), copy_state(adapted)  # fills the caches
    other = copied(adapted)
    assert torch.equal(case.outputs(other), expected)
    assert_same_bits(copy_state(other), before)
    perturb(other, seed=5)
    assert not torch.equal(case.outputs(other), expected)
    assert torch.equal(case.outputs(adapted), expected)
    assert_same_bits(copy_state(adapted), before)


@each_case
@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_merged_model_can_be_unmerged(case: Case, copied: Copy) -> None:
    adapted = case.adapted()
    before = copy_state(adapted)
    adapted.merge_adapter()
    other = copied(adapted)
    adapted.unmerge_adapter()
    other.unmerge_adapter()
    assert_same_bits(copy_state(other), before)


@each_case
def test_a_state_dict_is_loaded_into_another_model(case: Case) -> None:
    adapted, other = case.adapted(), case.start()
    case.outputs(other)  # fills the caches
    other.load_state_dict(adapted.state_dict())
    assert torch.equal(case.outputs(other), case.outputs(adapted))


@each_case
def test_the_text_of_a_model_shows_the_method_around_each_adapted_layer(case: Case) -> None:
    adapted = case.start()
    assert "ButterflyModel(" in repr(adapted)
    for layer in layers(adapted).values():
        assert repr(layer).startswith(f"butterfly.ButterflyLayer(\n  (base_layer): {layer.get_base_layer()!r}\n")
    assert "butterfly" not in repr(adapted.unload())
