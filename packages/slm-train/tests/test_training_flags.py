"""The flags of TrainingArguments that are read from its source are those of the real dataclass."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from transformers import HfArgumentParser

from slm_train.arguments import SlmTrainingArguments
from slm_train.command_line.known_flags import known_flag_names
from slm_train.command_line.parsing import PARSED_GROUPS
from slm_train.command_line.training_flags import read_flags_of_class, training_flags
from slm_train.options.budget import BudgetOptions

WITH_COMPUTED_DEFAULT = {"optim"}  # transformers chooses it by the version of torch


def real_fields() -> dict[str, Any]:
    return {field.name: field for field in fields(SlmTrainingArguments) if field.init}


def test_names_and_their_order_are_those_of_the_dataclass() -> None:
    assert [flag.name for flag in training_flags()] == list(real_fields())


def test_defaults_are_those_of_the_dataclass() -> None:
    real = real_fields()
    for flag in training_flags():
        if flag.name not in WITH_COMPUTED_DEFAULT:
            assert flag.default == real[flag.name].default, flag.name
        else:
            assert flag.default is MISSING, flag.name


def test_help_texts_are_those_of_the_dataclass() -> None:
    real = real_fields()
    for flag in training_flags():
        assert flag.help == real[flag.name].metadata.get("help", ""), flag.name


def test_types_are_those_of_the_dataclass() -> None:
    types = get_type_hints(SlmTrainingArguments)  # not the fields: HfArgumentParser changes their types when it runs
    for flag in training_flags():
        for word in ("list", "bool", "int", "float"):
            assert (word in flag.type) == (word in str(types[flag.name])), flag.name


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_known_flags_are_those_that_the_parser_accepts(dynamic: bool) -> None:
    groups: Any = (*PARSED_GROUPS, BudgetOptions) if dynamic else PARSED_GROUPS
    options = HfArgumentParser(groups)._option_string_actions
    accepted = {option.removeprefix("--").replace("-", "_") for option in options if option.startswith("--")}
    assert known_flag_names(dynamic=dynamic) == accepted - {"help"}


def test_base_classes_in_the_same_file_are_read_and_overridden(tmp_path: Path) -> None:
    source = tmp_path / "options.py"
    source.write_text(
        """
class Base:
    first: int = 1
    second: str | None = field(default=None, metadata={"help": "the " "second"})
    hidden: int = field(init=False)
    constant = 5

class Derived(Base, Elsewhere):
    first: float = 2.0
    third: list[str] = field(default_factory=list)
    fourth: str = CONSTANT
"""
    )
    flags = read_flags_of_class(source, "Derived")
    values = [(flag.name, flag.type, flag.default, flag.help) for flag in flags.values()]
    assert values == [
        ("first", "float", 2.0, ""),
        ("second", "str | None", None, "the second"),
        ("third", "list[str]", MISSING, ""),
        ("fourth", "str", MISSING, ""),
    ]
