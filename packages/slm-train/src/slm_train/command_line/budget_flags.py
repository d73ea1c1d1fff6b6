"""Flags of the Trainer flow as the token-budget loop takes them: some have another name there, some no meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise

from slm_train.arguments import BudgetOptions
from slm_train.flags import CommandLine, UsageError

DYNAMIC = "dynamic"
RENAMED = {"logging_steps": "log_interval", "eval_steps": "eval_interval", "save_steps": "checkpoint_interval"}

WATCHING = {"reduce_lr_on_plateau", "greedy"}  # schedules that wait for evaluations
_INTERVAL = "give --{} in steps"
MEANINGLESS = {
    "gradient_accumulation_steps": "a step ends by its tokens: give --target_tokens_per_step",
    "auto_find_batch_size": "a micro-batch that does not fit is split by itself",
    "streaming": "the plan of a run needs the length of every document",
    "train_sampling_strategy": "the plan puts rows of like length together",
    "dataloader_drop_last": "the tail of an epoch is used",
    "average_tokens_across_devices": "losses are always divided by the tokens of all processes",
    "load_best_model_at_end": "give --keep_best",
    "metric_for_best_model": "the evaluation's loss decides",
    "greater_is_better": "the evaluation's loss decides",
    "save_total_limit": "there is one checkpoint, the newest",
    "save_only_model": "the checkpoint is what resuming needs",
    "eval_strategy": _INTERVAL.format("eval_interval"),
    "logging_strategy": _INTERVAL.format("log_interval"),
    "save_strategy": _INTERVAL.format("checkpoint_interval"),
    "eval_on_start": "the base is always evaluated first",
    "max_minutes": "the plan of a run has as many steps as it has tokens: give --max_steps",
    "deepspeed": "give --fsdp for a model that does not fit one device",
}


def asked_for(argv: Sequence[str]) -> bool:
    return list(argv[:1]) == [DYNAMIC]


def only_dynamic(argv: Sequence[str]) -> None:
    """Refuse flags of the loop on the Trainer flow."""
    for word in argv:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in {flag.name for flag in fields(BudgetOptions)}:
            raise UsageError(f"--{name} is a flag of the token-budget loop: slm-train dynamic --{name} ...")


def translated(line: CommandLine) -> CommandLine:
    """``line`` for the loop. Raises UsageError for a flag that could have no effect there, with the reason."""
    for name in line.given:
        if name in MEANINGLESS:
            raise UsageError(f"--{name} has no meaning in slm-train dynamic: {MEANINGLESS[name]}")
    _refuse_watching_schedules(line.argv)
    for old, new in RENAMED.items():
        if old in line.given:
            line = _renamed(line, old, new)
    return line


def _refuse_watching_schedules(argv: Sequence[str]) -> None:
    for word, value in pairwise(argv):
        if word == "--lr_scheduler_type" and value in WATCHING:
            raise UsageError(
                f"--lr_scheduler_type {value} follows evaluations, slm-train dynamic a schedule; give linear or "
                "cosine, and --patience to stop by evaluations"
            )


def _renamed(line: CommandLine, old: str, new: str) -> CommandLine:
    if new in line.given:
        raise UsageError(f"--{old} and --{new} are one flag in slm-train dynamic; give --{new} alone")
    words = [_with_name(word, old, new) for word in line.argv]
    note = f"--{old} is --{new} in slm-train dynamic"
    return replace(line, argv=words, given=line.given - {old} | {new}, notes=(*line.notes, note))


def _with_name(word: str, old: str, new: str) -> str:
    name, equals, value = word.partition("=")
    return f"--{new}{equals}{value}" if name == f"--{old}" else word


def hidden(name: str) -> bool:
    """Whether a page of help for the loop leaves out a flag of the Trainer flow."""
    return name in MEANINGLESS or name in RENAMED
