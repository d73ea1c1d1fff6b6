"""The parser of flags: that of transformers, with errors of one sentence that name flag and value."""

from __future__ import annotations

import os
import re
from argparse import Action, ArgumentError
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from slm_train.command_line.checks.flag_combinations import check_combinations
from slm_train.command_line.checks.json_values import check_json_values
from slm_train.command_line.checks.optional_packages import check_packages
from slm_train.command_line.checks.value_ranges import check_ranges
from slm_train.command_line.flag_choices import choose_from
from slm_train.errors import UsageError, shown
from slm_train.options.budget import AUTO, AUTO_FLAGS

_MISSING_VALUE = re.compile(r"argument (--\w+)\S*: expected (?:at least )?one argument")
# Their types are classes, which HfArgumentParser would call with the word.
NOT_ON_COMMAND_LINE = {"liger_kernel_config", "parallelism_config"}
PATHS = {
    "train_file",
    "validation_file",
    "model_path",
    "tokenizer_path",
    "from_scratch",
    "token_cache",
    "resume_from_checkpoint",
    "chat_template",
    "output_dir",
}
_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes, on every common file system
_MAY_BE_BLANK = {"prompt", "document_separator"}
CHOICES = {
    "ddp_backend": ("gloo", "nccl", "mpi", "ccl", "xccl", "hccl", "cncl", "mccl"),
    "dataloader_multiprocessing_context": ("fork", "forkserver", "spawn"),
    "torch_compile_mode": ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
}


class FlagParser(HfArgumentParser):
    """Raises UsageError where argparse would print its usage and exit, and for numbers that are out of range."""

    def __init__(self, *arguments: Any, **named: Any):
        super().__init__(*arguments, **named)
        for action in self._actions:
            if action.type is string_to_bool and action.nargs is None:
                action.nargs, action.const = "?", True  # a switch that is unset by default is on without a value too
            if action.dest in AUTO_FLAGS:
                action.type = number_or_auto
            action.choices = action.choices or CHOICES.get(action.dest)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and check each value by itself: nothing has been created from them yet."""
        values, strays = super().parse_known_args(args, namespace)
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            values.ddp_backend = None  # transformers uses it although one process has no group
        check_ranges(vars(values))
        check_json_values(vars(values))
        check_packages(vars(values))
        check_combinations(vars(values))
        return values, strays

    def error(self, message: str) -> NoReturn:
        missing = _MISSING_VALUE.fullmatch(message)
        raise UsageError(f"{missing[1]} needs a value" if missing else f"{message}; slm-train --help lists the flags")

    def _get_value(self, action: Action, arg_string: str) -> Any:
        if action.dest in NOT_ON_COMMAND_LINE:
            raise UsageError(f"--{action.dest} {shown(arg_string)} is not supported: leave it out")
        _check_text(action.dest, arg_string)
        try:
            return super()._get_value(action, arg_string)
        except ArgumentError:
            raise UsageError(f"--{action.dest} {shown(arg_string)} must be {_expected(action, arg_string)}") from None

    def _check_value(self, action: Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [*map(str, action.choices)]
            raise UsageError(f"--{action.dest} {shown(str(value))}: {choose_from(str(value), choices)}")


def number_or_auto(word: str) -> int | str:
    """Read the value of a flag of AUTO_FLAGS."""
    return AUTO if word == AUTO else int(word)


def _check_text(name: str, word: str) -> None:
    """Raise UsageError for a value that is blank, and for one that no file name or JSON file can contain."""
    if not word.strip() and name not in _MAY_BE_BLANK:
        raise UsageError(f"--{name} {shown(word)} is blank: give a value, or leave out --{name}")
    if "\0" in word or word != word.encode(errors="ignore").decode():
        raise UsageError(f"--{name} {shown(word)} must be text in UTF-8")
    if name in PATHS:
        _check_path(name, word)


def _check_path(name: str, word: str) -> None:
    names = [len(part.encode()) for part in word.split("/")]
    if max(names) > _LONGEST_NAME or sum(names) + len(names) > _LONGEST_PATH:
        raise UsageError(f"--{name} {shown(word)} is too long for a path; check it")
    try:
        Path(word).expanduser()
    except RuntimeError:
        raise UsageError(f"--{name} {shown(word)} begins with the home folder of a user that does not exist") from None


def _expected(action: Action, word: str) -> str:
    if action.type in (int, number_or_auto):
        return "a whole number, or auto" if action.type is number_or_auto else "a whole number"
    if action.type is float:
        return "a number"
    if isinstance(action.type, type) and issubclass(action.type, Enum):
        return "one of " + ", ".join(str(choice.value) for choice in action.type)
    return "true or false"
