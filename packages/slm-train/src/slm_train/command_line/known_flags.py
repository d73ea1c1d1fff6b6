"""Reading a command line against the flags that ``slm-train`` has, without importing torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from slm_data import SourceOptions
from slm_train.command_line.budget_flags import is_dynamic, refuse_budget_flags, translate_for_budget
from slm_train.command_line.flag_reader import CommandLine, read_command_line
from slm_train.command_line.training_flags import training_flags
from slm_train.options.budget import BudgetOptions
from slm_train.options.model import ModelOptions
from slm_train.options.rows import RowOptions
from slm_train.options.run import RunOptions

OPTION_GROUPS: tuple[type[Any], ...] = (SourceOptions, ModelOptions, RowOptions, RunOptions)


def read_flags(argv: Sequence[str]) -> CommandLine:
    """Read a command line: expand ``--config``, translate legacy names, check every name.

    Args:
        argv: The words after the command's name. If the first is ``dynamic``, the rest are flags of the token-budget
            loop.

    Raises:
        UsageError: For an unknown flag, a broken file of flags, or a flag that has no effect in the chosen loop.
    """
    if is_dynamic(argv):
        return translate_for_budget(read_command_line(argv[1:], known_flag_names(dynamic=True)))
    refuse_budget_flags(argv)
    return read_command_line(argv, known_flag_names(dynamic=False))


def known_flag_names(*, dynamic: bool) -> set[str]:
    """Return the names that HfArgumentParser accepts: each field, and ``no_NAME`` for a switch that is on."""
    groups = (*OPTION_GROUPS, BudgetOptions) if dynamic else OPTION_GROUPS
    flags: list[Any] = [flag for group in groups for flag in fields(group)]
    flags += training_flags()
    negations = {f"no_{flag.name}" for flag in flags if flag.default is True}
    return {flag.name for flag in flags} | negations
