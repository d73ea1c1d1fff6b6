"""Default learning rates: by mode and base model, not by dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import GPT2Config, LlamaConfig

from slm_train.command_line.parsing import parse_arguments
from slm_train.model.base_model import BaseModel
from slm_train.model.learning_rates import default_learning_rate, with_learning_rate
from slm_train.options.model import MODES, ModelOptions


def base_of(config: Any) -> BaseModel:
    no_tokenizer: Any = None
    return BaseModel("base", "base", config, no_tokenizer)


NARROW, MEDIUM = base_of(GPT2Config(n_embd=256)), base_of(LlamaConfig(hidden_size=576))
WIDE = base_of(LlamaConfig(hidden_size=4096))


@pytest.mark.parametrize("mode", MODES)
def test_no_dataset_and_the_sample_have_the_same_rate_and_it_depends_on_the_base(mode: str) -> None:
    unnamed, named = (parse_arguments(["--mode", mode, *more]) for more in ([], ["--dataset", "sample"]))
    rates = [with_learning_rate(arguments, NARROW, None).training.learning_rate for arguments in (unnamed, named)]
    assert rates[0] == rates[1] == default_learning_rate(unnamed.model, NARROW)
    by_width = [default_learning_rate(unnamed.model, base) for base in (NARROW, MEDIUM, WIDE)]
    assert by_width[0] > by_width[1] > by_width[2] > 0


def test_a_resumed_run_keeps_its_rate_and_an_explicit_one_takes_precedence() -> None:
    recorded = {"arguments": {"learning_rate": 7e-4}}
    default, explicit = (parse_arguments(flags) for flags in ([], ["--learning_rate", "2e-3"]))
    assert with_learning_rate(default, NARROW, recorded).training.learning_rate == 7e-4
    assert with_learning_rate(explicit, NARROW, recorded).training.learning_rate == 2e-3
    assert with_learning_rate(explicit, NARROW, None).training.learning_rate == 2e-3


def test_the_larger_updates_of_rslora_get_a_smaller_rate() -> None:
    plain = default_learning_rate(ModelOptions(lora_r=16), MEDIUM)
    assert default_learning_rate(ModelOptions(lora_r=16, use_rslora=True), MEDIUM) == plain / 4
    assert default_learning_rate(ModelOptions(mode="butterfly", use_rslora=True), MEDIUM) == default_learning_rate(
        ModelOptions(mode="butterfly"), MEDIUM
    )


def test_a_new_model_is_trained_faster_than_a_pretrained_one() -> None:
    pretrained = ModelOptions(mode="baseline")
    new = replace(pretrained, from_scratch="config.json")
    for base in (MEDIUM, WIDE):
        assert default_learning_rate(new, base) > 2 * default_learning_rate(pretrained, base)
