"""Continuations of prompts: repeatable, one by one, within the context, without effect on training."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from slm_testing.train.tiny_runs import Tiny
from slm_train import continue_prompts

PROMPTS = ["a tide", "the sea", "One day"]


@pytest.fixture
def model(tiny: Tiny) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny.model)


@pytest.fixture
def tokenizer(tiny: Tiny) -> Any:
    return AutoTokenizer.from_pretrained(tiny.model)


def test_each_text_begins_with_its_prompt_and_does_not_depend_on_the_others(model: Any, tokenizer: Any) -> None:
    texts = continue_prompts(model, tokenizer, PROMPTS)
    assert [sample["prompt"] for sample in texts] == PROMPTS
    assert all(sample["text"].startswith(sample["prompt"]) for sample in texts)
    assert len({sample["text"].removeprefix(sample["prompt"]) for sample in texts}) == 3
    torch.manual_seed(5)
    assert continue_prompts(model, tokenizer, [PROMPTS[2], PROMPTS[0]]) == [texts[2], texts[0]]
    assert continue_prompts(model, tokenizer, []) == []


@pytest.mark.parametrize("training", [True, False])
def test_training_is_not_affected(model: Any, tokenizer: Any, training: bool) -> None:
    model.train(training)
    states = torch.get_rng_state(), random.getstate()
    continue_prompts(model, tokenizer, PROMPTS)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert model.training is training


@pytest.mark.parametrize("room", [1, 5])
def test_a_text_ends_with_the_context_of_the_model(model: Any, tokenizer: Any, room: int) -> None:
    prompt = "a" * 400
    while len(tokenizer(prompt)["input_ids"]) > 128 - room:
        prompt = prompt[:-1]
    (sample,) = continue_prompts(model, tokenizer, [prompt])  # position 129 would be an IndexError
    assert sample["text"].startswith(prompt)
