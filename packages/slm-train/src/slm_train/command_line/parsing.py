"""From a command line to typed options: defaults that fit device and mode, and mistakes in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from transformers import HfArgumentParser
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from slm_data import DataError, SourceOptions
from slm_train.arguments import (
    ENDLESS,
    Arguments,
    BudgetOptions,
    ModelOptions,
    RowOptions,
    RunOptions,
    SlmTrainingArguments,
    did_you_mean,
)
from slm_train.budget_flags import asked_for, only_dynamic, translated
from slm_train.device import DeviceDefaults, device_defaults
from slm_train.errors import UserError
from slm_train.flags import UsageError, read_command_line
from slm_train.old_flags import FALSE
from slm_train.run_record import RUN

LEARNING_RATES = {"baseline": 5e-5, "lora": 2e-4, "qlora": 2e-4, "butterfly": 1e-2, "butterfly_block": 1e-2}
DEMO_RATES = {"baseline": 1e-3, "lora": 8e-3, "qlora": 8e-3, "butterfly": 3e-2, "butterfly_block": 3e-2}
COUNTING_STEPS = {"inverse_sqrt", "reduce_lr_on_plateau", "warmup_stable_decay", "greedy"}  # not shares of a run
MAY_BE_BARE = {"--resume_from_checkpoint", "--butterfly_scale"}
NAMES_TEXTS = {"dataset", "train_file"}
DEMO = {
    "dataset": "sample",
    "max_train_samples": "500",
    "max_eval_samples": "60",
    "per_device_train_batch_size": "4",
}
DEMO_BUDGET = DEMO | {"target_tokens_per_step": "1024"}


class _Parser(HfArgumentParser):
    """argparse ends the program with a page of usage; here a mistake is one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; slm-train --help lists the flags")


GROUPS = (SourceOptions, ModelOptions, RowOptions, RunOptions, SlmTrainingArguments)


def parse(argv: Sequence[str]) -> Arguments:
    """The command line as typed options, that of the token-budget loop where it begins with ``dynamic``.

    Raises UserError, UsageError or DataError, one sentence each."""
    dynamic = asked_for(argv)
    groups: Any = (*GROUPS, BudgetOptions) if dynamic else GROUPS
    if dynamic:
        argv = argv[1:]
    else:
        only_dynamic(argv)
    parser = _Parser(groups, prog="slm-train", allow_abbrev=False)  # what --help prints is help_page's
    known = {option.removeprefix("--") for option in parser._option_string_actions}
    line = read_command_line(argv, known)
    line = translated(line) if dynamic else line
    device = device_defaults(cpu_wanted=_is_on("use_cpu", line.argv))
    defaults, notes = _defaults(line.given, device, DEMO_BUDGET if dynamic else DEMO)
    forced = ["--use_cpu", "True"] if device.use_cpu else []  # there is nothing else, whatever was asked for
    try:
        parsed = parser.parse_args_into_dataclasses(
            [*defaults, *_spelled_out(line.argv), *forced], look_for_args_file=False, return_remaining_strings=True
        )
    except (ValueError, ImportError) as refused:  # the options check their own values
        if isinstance(refused, UsageError | DataError):
            raise
        raise UserError(str(refused).strip()) from refused
    source, model, rows, run, training, *budget, rest = parsed
    if rest:
        raise UsageError(f"{rest[0]!r} belongs to no flag; slm-train --help lists the flags")
    if dynamic and "packing" not in line.given:
        rows = replace(rows, packing="none")
    _complete(source, model, rows, training, line.given, "-dynamic" if dynamic else "")
    if run.muon and model.mode != "baseline":
        raise UserError(f"--muon is for training every weight; give --mode baseline instead of {model.mode}")
    if run.max_minutes is not None:
        _limit_time(training, line.given)
    _check_loggers(training.report_to)
    said = (*line.notes, *notes)
    return Arguments(source, model, rows, run, training, device.name, said, line.given, *budget)


def _is_on(switch: str, argv: Sequence[str]) -> bool:
    """Whether the last ``--switch`` in ``argv`` is on: alone, or with anything but a no."""
    said = [at for at, word in enumerate(argv) if word == f"--{switch}"]
    return bool(said) and "".join(argv[said[-1] + 1 : said[-1] + 2]).lower() not in FALSE


def _check_loggers(names: Sequence[str]) -> None:
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = sorted(INTEGRATION_TO_CALLBACK)
            raise UserError(f"--report_to {name}: {did_you_mean(name, known)}known are {', '.join(known)}")
        if name not in (here := get_available_reporting_integrations()):
            raise UserError(
                f"--report_to {name}: its package is not installed; install it, or use {' or '.join(here) or 'none'}"
            )


def _spelled_out(argv: Iterable[str]) -> list[str]:
    """``--resume_from_checkpoint`` alone means the newest checkpoint of the output folder, a bare switch true."""
    tokens = list(argv)
    for at in range(len(tokens) - 1, -1, -1):
        following = tokens[at + 1] if at + 1 < len(tokens) else "--"
        if tokens[at] in MAY_BE_BARE and following.startswith("--"):
            tokens.insert(at + 1, "true")
    return tokens


def _defaults(given: frozenset[str], device: DeviceDefaults, demo: dict[str, str]) -> tuple[list[str], list[str]]:
    """Flags for what the user left open, and what is said about it."""
    flags = {"bf16": device.bf16 and "fp16" not in given, "dataloader_pin_memory": not device.use_cpu}
    argv = [word for name, on in flags.items() if name not in given for word in (f"--{name}", str(on))]
    if given & NAMES_TEXTS:
        return argv, []
    small = [word for name, value in demo.items() if name not in given for word in (f"--{name}", value)]
    stories = "" if "max_train_samples" in given else f" {DEMO['max_train_samples']} of its stories,"
    return argv + small, [
        f"no dataset named: the built-in corpus,{stories} with the built-in base (--dataset, --train_file)"
    ]


def _complete(
    source: SourceOptions,
    model: ModelOptions,
    rows: RowOptions,
    training: SlmTrainingArguments,
    given: frozenset[str],
    suffix: str,
) -> None:
    """Defaults that depend on other flags."""
    if "learning_rate" not in given:
        training.learning_rate = (LEARNING_RATES if given & NAMES_TEXTS else DEMO_RATES)[model.mode]
    if "train_sampling_strategy" not in given and rows.packing == "none":
        training.train_sampling_strategy = "group_by_length"
    if "output_dir" not in given:
        training.output_dir = free_output_dir(
            f"outputs/{_short_name(source)}-{model.mode}{suffix}", training.resume_from_checkpoint
        )
    if "log_level_replica" not in given:
        training.log_level_replica = "error"  # the first process speaks for all
    if "ddp_find_unused_parameters" not in given:
        training.ddp_find_unused_parameters = False  # each mode uses all that it trains
    if training.gradient_checkpointing and training.gradient_checkpointing_kwargs is None:
        training.gradient_checkpointing_kwargs = {"use_reentrant": False}


def _limit_time(training: SlmTrainingArguments, given: frozenset[str]) -> None:
    """Steps without an end, for ``--max_minutes``. Raises UserError for flags that need to know how many there are."""
    for other in ("max_steps", "num_train_epochs"):
        if other in given:
            raise UserError(f"--max_minutes and --{other} both say when training ends; give one of them")
    if training.warmup_steps >= 1:
        raise UserError(
            f"--warmup_steps {training.warmup_steps:g} counts steps, and --max_minutes does not know how many there "
            "will be; give a share of the run, below 1"
        )
    kind = str(getattr(training.lr_scheduler_type, "value", training.lr_scheduler_type))
    if kind in COUNTING_STEPS:
        raise UserError(
            f"--lr_scheduler_type {kind} does not go with --max_minutes, whose steps are not known beforehand; give "
            "linear, cosine or constant"
        )
    training.max_steps = ENDLESS


def _short_name(source: SourceOptions) -> str:
    """What the default output folder is called after."""
    named = source.dataset or Path(source.train_file[0]).stem
    return re.sub(r"[^A-Za-z0-9.-]+", "-", named.rpartition("/")[2]).strip("-.") or "run"


def free_output_dir(wanted: str, resuming: str | None) -> str:
    """``wanted``, or, when nothing is resumed, the first of wanted-2, wanted-3 ... without a run."""
    folder, number = wanted, 2
    while not resuming and (Path(folder) / RUN).exists():
        folder, number = f"{wanted}-{number}", number + 1
    return folder
