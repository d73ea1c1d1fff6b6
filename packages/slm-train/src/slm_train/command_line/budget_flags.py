"""Flags of the Trainer in ``slm-train dynamic``: some have another name there, others have no effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise

from slm_train.command_line.flag_names import plain_name
from slm_train.command_line.flag_reader import CommandLine
from slm_train.errors import UsageError
from slm_train.options.budget import BudgetOptions

DYNAMIC = "dynamic"
RENAMED = {"logging_steps": "log_interval", "eval_steps": "eval_interval", "save_steps": "checkpoint_interval"}

_EVALUATION_SCHEDULES = {"reduce_lr_on_plateau", "greedy"}  # schedules that depend on evaluations
_INTERVAL = "give --{} in steps"
_FIXED_METRIC = "evaluations are compared by their loss"
WITHOUT_EFFECT = {
    "gradient_accumulation_steps": "a step is as long as its tokens: give --target_tokens_per_step",
    "auto_find_batch_size": "a micro-batch that does not fit in memory is split automatically",
    "streaming": "the plan of a run needs the length of every document",
    "train_sampling_strategy": "the plan batches rows of similar length together",
    "dataloader_drop_last": "the last rows of an epoch are always used",
    "average_tokens_across_devices": "losses are always divided by the tokens of all processes",
    "load_best_model_at_end": "give --keep_best",
    "metric_for_best_model": _FIXED_METRIC,
    "greater_is_better": _FIXED_METRIC,
    "save_total_limit": "there is only one checkpoint, the newest",
    "save_only_model": "the checkpoint contains what resuming needs",
    "eval_strategy": _INTERVAL.format("eval_interval"),
    "logging_strategy": _INTERVAL.format("log_interval"),
    "save_strategy": _INTERVAL.format("checkpoint_interval"),
    "eval_on_start": "the base model is always evaluated first",
    "max_minutes": "the number of steps is fixed by the plan: give --max_steps",
    "deepspeed": "give --fsdp for a model that does not fit on one device",
}


def is_dynamic(argv: Sequence[str]) -> bool:
    """Return whether a command line is one of ``slm-train dynamic``."""
    return list(argv[:1]) == [DYNAMIC]


def is_hidden(name: str) -> bool:
    """Return whether the help page of the token-budget loop leaves out a flag of the Trainer."""
    return name in WITHOUT_EFFECT or name in RENAMED


def refuse_budget_flags(argv: Sequence[str]) -> None:
    """Raise UsageError for a flag of the token-budget loop on a command line of the Trainer."""
    for word in argv:
        name = plain_name(word.partition("=")[0])
        if word.startswith("--") and name in {flag.name for flag in fields(BudgetOptions)}:
            raise UsageError(f"--{name} is a flag of the token-budget loop: slm-train dynamic --{name} ...")


def translate_for_budget(line: CommandLine) -> CommandLine:
    """Return a command line with the names of the token-budget loop.

    Raises UsageError, with the reason, for a flag that has no effect there.
    """
    for name in line.explicit_flags:
        if name in WITHOUT_EFFECT:
            raise UsageError(f"--{name} has no effect in slm-train dynamic: {WITHOUT_EFFECT[name]}")
    _refuse_evaluation_schedules(line.argv)
    for old, new in RENAMED.items():
        if old in line.explicit_flags:
            line = _rename(line, old, new)
    return replace(line, is_dynamic=True)


def _refuse_evaluation_schedules(argv: Sequence[str]) -> None:
    for word, value in pairwise(argv):
        if word == "--lr_scheduler_type" and value in _EVALUATION_SCHEDULES:
            raise UsageError(
                f"--lr_scheduler_type {value} follows evaluations, which slm-train dynamic does not support; give "
                "linear or cosine, and --patience to stop by evaluations"
            )


def _rename(line: CommandLine, old: str, new: str) -> CommandLine:
    if new in line.explicit_flags:
        raise UsageError(f"--{old} and --{new} are the same flag in slm-train dynamic; give --{new} alone")
    words = [_with_name(word, old, new) for word in line.argv]
    note = f"--{old} is --{new} in slm-train dynamic"
    return replace(line, argv=words, explicit_flags=line.explicit_flags - {old} | {new}, notes=(*line.notes, note))


def _with_name(word: str, old: str, new: str) -> str:
    name, equals, value = word.partition("=")
    return f"--{new}{equals}{value}" if name == f"--{old}" else word
