"""Parsing a command line into typed options. Imports torch; ``known_flags`` checks the names of flags without it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slm_data import DataError
from slm_train.arguments import Arguments, SlmTrainingArguments
from slm_train.checkpoints.output_folder import check_folder
from slm_train.command_line.checks.ineffective_flags import ineffective_flags
from slm_train.command_line.checks.sharding_flags import check_sharding
from slm_train.command_line.evaluation_batch import limit_evaluation_batch
from slm_train.command_line.evaluation_flags import check_evaluation_flags
from slm_train.command_line.flag_parser import FlagParser
from slm_train.command_line.flag_reader import CommandLine
from slm_train.command_line.flag_types import FALSE_WORDS
from slm_train.command_line.known_flags import OPTION_GROUPS, read_flags
from slm_train.command_line.loggers import check_loggers
from slm_train.command_line.run_defaults import (
    check_learning_rate_search,
    complete_training,
    default_words,
    limit_by_time,
)
from slm_train.errors import TrainError, UsageError
from slm_train.hardware.device_defaults import device_defaults, notes_on_precision
from slm_train.loop.trial.activation_checkpointing import check_activation_checkpointing
from slm_train.loop.trial.optimizer import check_optimizer
from slm_train.loop.trial.schedule import check_schedule
from slm_train.options.budget import BudgetOptions

PARSED_GROUPS = (*OPTION_GROUPS, SlmTrainingArguments)
# Flags that HfArgumentParser requires a value for, although they make sense without one.
_VALUE_OPTIONAL = {"--resume_from_checkpoint"}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse a command line, of the token-budget loop if it begins with ``dynamic``.

    Raises:
        UsageError: For words that belong to no flag, unknown flags, and values of the wrong type.
        TrainError: For values out of range, and for options that contradict each other.
        DataError: For invalid options of the texts.
    """
    return make_arguments(read_flags(argv))


def make_arguments(line: CommandLine) -> Arguments:
    """Turn a command line from ``read_flags`` into options; raises as ``parse_arguments`` does."""
    device = device_defaults(cpu_wanted=_is_on("use_cpu", line.argv))
    words, notes = default_words(line.explicit_flags, device, dynamic=line.is_dynamic)
    # use_cpu is forced without a GPU: transformers refuses --bf16 on such a machine unless it is set.
    forced = ["--use_cpu", "True"] if device.use_cpu else []
    fp16_on_cpu = device.use_cpu and _is_on("fp16", line.argv) and not _is_on("bf16", line.argv)
    forced += ["--fp16", "False"] if fp16_on_cpu else []
    source, model, rows, run, training, *budget = _parse_groups([*words, *_with_values(line.argv), *forced], line)
    if line.is_dynamic and "packing" not in line.explicit_flags:
        rows = replace(rows, packing="none")
    complete_training(training, source, model, rows, line.explicit_flags, dynamic=line.is_dynamic)
    limit_evaluation_batch(training, rows, budget[0] if budget else None, line.explicit_flags)
    if run.muon and model.mode != "baseline":
        raise TrainError(f"--muon is for training every weight; give --mode baseline instead of {model.mode}")
    check_sharding(training, model, run)
    if run.max_minutes is not None:
        limit_by_time(training, line.explicit_flags)
    notes += notes_on_precision(line.explicit_flags, device, bf16=training.bf16, fp16_on_cpu=fp16_on_cpu)
    notes = [*notes, *check_learning_rate_search(run, source, training)]
    check_evaluation_flags(run, training, budget[0] if budget else None, line.explicit_flags)
    check_loggers(training.report_to)
    if rows.token_cache:
        check_folder("--token_cache", Path(rows.token_cache).expanduser())
    check_activation_checkpointing(training)
    notes += check_schedule(training)
    notes += [] if run.muon else check_optimizer(training)
    notes += ineffective_flags(line.explicit_flags, training, run, dynamic=line.is_dynamic)
    training.enable_jit_checkpoint = False  # its signal handler would replace that of the run
    all_notes = (*line.notes, *notes)
    return Arguments(source, model, rows, run, training, device.name, all_notes, line.explicit_flags, *budget)


def flag_parser(*, dynamic: bool) -> FlagParser:
    """Return the parser of all flags of a loop."""
    groups: Any = (*PARSED_GROUPS, BudgetOptions) if dynamic else PARSED_GROUPS
    # No abbreviations: they would bypass the check of names, and mean another flag once one is added.
    return FlagParser(groups, prog="slm-train", allow_abbrev=False)


def _parse_groups(words: list[str], line: CommandLine) -> tuple[Any, ...]:
    """Return an instance of each group of options, that of the token budget last."""
    parser = flag_parser(dynamic=line.is_dynamic)
    try:
        # HfArgumentParser would otherwise read flags from a file named like the program (slm-train.args).
        *options, strays = parser.parse_args_into_dataclasses(
            words, look_for_args_file=False, return_remaining_strings=True
        )
    except (ValueError, ImportError) as error:  # the options check their own values
        if isinstance(error, TrainError | DataError):
            raise
        raise TrainError(" ".join(str(error).split())) from error
    if strays:
        raise UsageError(f"{strays[0]!r} belongs to no flag; slm-train --help lists the flags")
    return tuple(options)


def _is_on(switch: str, argv: Sequence[str]) -> bool:
    """Return whether the last ``--switch`` in ``argv`` is on: without a value, or with one not in FALSE_WORDS."""
    positions = [position for position, word in enumerate(argv) if word == f"--{switch}"]
    return bool(positions) and "".join(argv[positions[-1] + 1 : positions[-1] + 2]).lower() not in FALSE_WORDS


def _with_values(argv: Iterable[str]) -> list[str]:
    """Give the flags of _VALUE_OPTIONAL the value true where they have none."""
    words = list(argv)
    for position in range(len(words) - 1, -1, -1):
        following = words[position + 1] if position + 1 < len(words) else "--"
        if words[position] in _VALUE_OPTIONAL and following.startswith("--"):
            words.insert(position + 1, "true")
    return words
