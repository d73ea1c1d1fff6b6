"""Flags of the Trainer that have no effect on a run, each reported in one line instead of ignored in silence."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from slm_train.arguments import SlmTrainingArguments
from slm_train.options.run import RunOptions

_OWN_EVALUATION = "evaluation here sums the loss over tokens and keeps no predictions"
_ALWAYS = "a run always trains and evaluates"
_PRECISION = "evaluation has the precision of training"
_NEVER: dict[str, str] = {
    "do_train": _ALWAYS,
    "do_eval": _ALWAYS,
    "do_predict": _ALWAYS,
    "prediction_loss_only": _OWN_EVALUATION,
    "eval_do_concat_batches": _OWN_EVALUATION,
    "eval_use_gather_object": _OWN_EVALUATION,
    "eval_accumulation_steps": _OWN_EVALUATION,
    "include_for_metrics": _OWN_EVALUATION,
    "batch_eval_metrics": _OWN_EVALUATION,
    "label_names": _OWN_EVALUATION,
    "bf16_full_eval": _PRECISION,
    "fp16_full_eval": _PRECISION,
    "length_column_name": "the length of a row is its number of tokens",
    "remove_unused_columns": "rows contain only what the model accepts",
    "local_rank": "torchrun sets it in the environment",
    "disable_tqdm": "the progress bar is shown on a terminal only",
    "enable_jit_checkpoint": "a run that receives SIGTERM always saves a checkpoint",
    "hub_always_push": "every upload is finished before training continues",
}
_LOADER = "the loop loads its micro-batches itself"
_NEVER_IN_DYNAMIC: dict[str, str] = {
    "data_seed": "the order of rows is part of the plan, which --seed determines",
    "logging_first_step": "give --log_interval 1",
    "eval_delay": "give --eval_interval",
    "torch_empty_cache_steps": "memory is bounded by --max_tokens_per_micro_batch",
    "include_num_input_tokens_seen": "predicted tokens are always counted",
    "ignore_data_skip": "a resumed run continues with the next step of its plan",
    "restore_callback_states_from_checkpoint": "a checkpoint contains the whole state of the run",
    "hub_strategy": "the finished run is uploaded, not its checkpoints",
    "dataloader_prefetch_factor": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_in_order": _LOADER,
}
_OF_UPLOADS = ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision", "hub_token")
_OF_PROCESSES = (
    "ddp_backend",
    "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "ddp_timeout",
)
_OF_INTERVALS = {"eval_steps": "eval_strategy", "save_steps": "save_strategy", "logging_steps": "logging_strategy"}
_OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")
_NOT_ADAM = re.compile("sgd|adagrad|rmsprop.*|.*adafactor.*|.*lomo|schedule_free_sgd")


def ineffective_flags(
    explicit: Collection[str], training: SlmTrainingArguments, run: RunOptions, *, dynamic: bool
) -> list[str]:
    """Return a line for each flag that the user set and that has no effect on this run."""
    reasons = _NEVER | _NEVER_IN_DYNAMIC if dynamic else _NEVER
    lines = [f"--{name} has no effect: {reason}" for name, reason in reasons.items() if name in explicit]
    needed = {} if dynamic else dict(_unmet_intervals(training, run))
    needed |= dict(_unmet(training, run))
    return lines + [f"--{name} has no effect without {other}" for name, other in needed.items() if name in explicit]


def _unmet_intervals(training: SlmTrainingArguments, run: RunOptions) -> Iterator[tuple[str, str]]:
    """Yield flags that only mean something with a strategy that the run does not have."""
    for name, strategy in _OF_INTERVALS.items():
        chosen_later = name == "eval_steps" and (run.keep_best or run.patience is not None)
        if _name(getattr(training, strategy)) != "steps" and not chosen_later:
            yield name, f"--{strategy} steps"
    if _name(training.eval_strategy) == "no":
        yield "eval_delay", "--eval_strategy steps or epoch"
    if not training.load_best_model_at_end and _name(training.save_strategy) != "best" and not _follows(training):
        yield "metric_for_best_model", "--load_best_model_at_end or --save_strategy best"


def _unmet(training: SlmTrainingArguments, run: RunOptions) -> Iterator[tuple[str, str]]:
    """Yield flags that only mean something with another flag, and that flag."""
    optimizer, schedule = _name(training.optim), _name(training.lr_scheduler_type)
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield from ((name, "several processes (torchrun)") for name in _OF_PROCESSES)
    if not training.push_to_hub:
        yield from ((name, "--push_to_hub") for name in _OF_UPLOADS)
    if not training.gradient_checkpointing:
        yield "gradient_checkpointing_kwargs", "--gradient_checkpointing"
    if not training.fsdp:
        yield "fsdp_config", "--fsdp"
    if run.muon:
        yield "optim", "--muon false"
    elif not re.search("galore|apollo", optimizer):
        yield "optim_target_modules", "--optim galore_... or apollo_..."
    if not run.muon and _NOT_ADAM.fullmatch(optimizer):
        yield from ((name, f"an Adam optimizer (--optim is {optimizer})") for name in _OF_ADAM)
    if schedule in ("constant", "reduce_lr_on_plateau", "greedy"):
        yield "warmup_steps", f"warmup in the schedule (--lr_scheduler_type is {schedule})"


def _follows(training: SlmTrainingArguments) -> bool:
    return _name(training.lr_scheduler_type) in ("reduce_lr_on_plateau", "greedy")


def _name(value: Any) -> str:
    """Return the word of a flag that transformers turned into an enumeration."""
    return str(getattr(value, "value", value))
