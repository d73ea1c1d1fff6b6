"""Generating with an adapted language model, with and without a KV cache, and with every kind of input."""

from typing import Any

import pytest
import torch
from torch import Tensor

from slm_testing.adapters.peft_cases import Case, each_causal_case
from slm_testing.adapters.peft_models import model_inputs

LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 1, "do_sample": False}


def generated(case: Case, model: Any, **options: object) -> Tensor:
    tokens: Tensor = model.generate(input_ids=model_inputs(case.model), **LENGTH, **options)
    return tokens


@each_causal_case
@pytest.mark.parametrize(("merged", "num_beams"), [(False, 2), (True, 1)])
def test_the_cache_changes_nothing(case: Case, merged: bool, num_beams: int) -> None:
    adapted = case.adapted(torch.float64)
    if merged:
        adapted.merge_adapter()
    expected = generated(case, adapted, use_cache=False, num_beams=num_beams)
    assert torch.equal(generated(case, adapted, use_cache=True, num_beams=num_beams), expected)
    assert expected.shape == (3, 7 + 6)


@each_causal_case
def test_inputs_may_be_passed_by_position(case: Case) -> None:
    adapted = case.adapted()
    assert torch.equal(adapted.generate(model_inputs(case.model), **LENGTH), generated(case, adapted))


@each_causal_case
def test_embeddings_may_be_passed_instead_of_tokens(case: Case) -> None:
    adapted, x = case.adapted(), model_inputs(case.model)
    embeddings = adapted.get_input_embeddings()(x)
    with torch.no_grad():
        assert torch.equal(adapted(inputs_embeds=embeddings).logits, case.outputs(adapted))


@each_causal_case
def test_generation_leaves_the_model_as_it_was(case: Case) -> None:
    adapted = case.adapted()
    expected = case.outputs(adapted)
    trained = [name for name, values in adapted.named_parameters() if values.requires_grad]
    generated(case, adapted)
    with adapted.disable_adapter():
        assert torch.equal(generated(case, adapted), generated(case, case.base()))
    assert torch.equal(case.outputs(adapted), expected)
    assert [name for name, values in adapted.named_parameters() if values.requires_grad] == trained


@each_causal_case
def test_generation_works_in_half_precision(case: Case) -> None:
    assert generated(case, case.adapted(torch.bfloat16)).shape == (3, 13)
