"""Defaults that depend on the device, the mode and other flags."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers.trainer_utils import SaveStrategy

from slm_data import SourceOptions
from slm_train.arguments import UNLIMITED_STEPS, SlmTrainingArguments
from slm_train.errors import TrainError
from slm_train.hardware.device_defaults import APPLE_GPU, DeviceDefaults
from slm_train.options.budget import AUTO
from slm_train.options.model import ModelOptions
from slm_train.options.rows import RowOptions
from slm_train.options.run import RunOptions
from slm_train.run_folder.lock_file import active_process
from slm_train.run_folder.run_record import RUN_FILE

DATASET_FLAGS = {"dataset", "train_file"}
SAMPLE_RUN = {
    "dataset": "sample",
    "max_train_samples": "600",
    "max_eval_samples": "40",
    "per_device_train_batch_size": "4",
}
SAMPLE_RUN_DYNAMIC = SAMPLE_RUN | {"target_tokens_per_step": "1024"}
# Schedules whose shape depends on the number of steps rather than on the fraction of the run.
_STEP_SCHEDULES = {"inverse_sqrt", "reduce_lr_on_plateau", "warmup_stable_decay", "greedy"}

# Optimizers that take their steps within the backward pass, or that replace the weights in evaluations.
_STEPS_IN_BACKWARD = re.compile("lomo|layerwise|schedule_free")


def default_words(
    explicit_flags: Collection[str], device: DeviceDefaults, *, dynamic: bool
) -> tuple[list[str], list[str]]:
    """Return words for flags that the user did not set, and lines to print about them."""
    switches = {
        "bf16": device.bf16 and "fp16" not in explicit_flags,
        **({"fp16": True} if device.fp16 and "bf16" not in explicit_flags else {}),
        "dataloader_pin_memory": not device.use_cpu and device.name != APPLE_GPU,  # it has none
    }
    words = [word for name, on in switches.items() if name not in explicit_flags for word in (f"--{name}", str(on))]
    if dynamic and not device.use_cpu and "checkpoint_interval" not in explicit_flags:
        words += ["--checkpoint_interval", AUTO]  # a checkpoint takes longer than a step of a small model
    if DATASET_FLAGS & set(explicit_flags):
        return words, []
    sample = SAMPLE_RUN_DYNAMIC if dynamic else SAMPLE_RUN
    words += [word for name, value in sample.items() if name not in explicit_flags for word in (f"--{name}", value)]
    count = "" if "max_train_samples" in explicit_flags else f" ({SAMPLE_RUN['max_train_samples']} stories)"
    model = "" if "model_path" in explicit_flags else " the built-in base model"
    note = f"no --dataset or --train_file: training{model} on the built-in corpus{count}"
    return words, [note]


def complete_training(
    training: SlmTrainingArguments,
    source: SourceOptions,
    model: ModelOptions,
    rows: RowOptions,
    explicit_flags: Collection[str],
    *,
    dynamic: bool,
) -> None:
    """Set those training arguments whose default depends on other options.

    Those that depend on the base model or on the data are set later: the learning rate
    (``model.learning_rates``) and the number of epochs (``data.run_length``).
    """
    if "train_sampling_strategy" not in explicit_flags and rows.packing == "none":
        training.train_sampling_strategy = "group_by_length"
    if "output_dir" not in explicit_flags:
        name = f"outputs/{_dataset_name(source)}-{model.mode}{'-dynamic' if dynamic else ''}"
        training.output_dir = free_output_dir(name, training.resume_from_checkpoint)
    if "log_level_replica" not in explicit_flags:
        training.log_level_replica = "error"  # only the first process logs
    if "ddp_find_unused_parameters" not in explicit_flags:
        training.ddp_find_unused_parameters = False  # every mode uses all the parameters that it trains
    if training.gradient_checkpointing:
        # Reentrant checkpointing needs an input with a gradient, which an adapter over a frozen base does not have.
        given: Any = training.gradient_checkpointing_kwargs or {}
        training.gradient_checkpointing_kwargs = {"use_reentrant": False} | given
    if training.save_strategy == SaveStrategy.BEST and training.metric_for_best_model is None:
        training.metric_for_best_model = "loss"


def limit_by_time(training: SlmTrainingArguments, explicit_flags: Collection[str]) -> None:
    """Remove the limit on steps, for ``--max_minutes``.

    Raises TrainError for flags that need to know the number of steps in advance.
    """
    for other in ("max_steps", "num_train_epochs"):
        if other in explicit_flags:
            raise TrainError(f"--max_minutes and --{other} both limit the length of training; give one of them")
    if training.warmup_steps >= 1:
        raise TrainError(
            f"--warmup_steps {training.warmup_steps:g} counts steps, but with --max_minutes their number is not known "
            "in advance; give a fraction of the run, below 1"
        )
    schedule = str(getattr(training.lr_scheduler_type, "value", training.lr_scheduler_type))
    if schedule in _STEP_SCHEDULES:
        raise TrainError(
            f"--lr_scheduler_type {schedule} needs the number of steps, which --max_minutes does not know in advance; "
            "give linear, cosine or constant"
        )
    training.max_steps = UNLIMITED_STEPS


def check_learning_rate_search(run: RunOptions, source: SourceOptions, training: SlmTrainingArguments) -> list[str]:
    """Return lines to print about ``--find_learning_rate``. Raises TrainError where it cannot work."""
    if not run.find_learning_rate:
        return []
    optimizer = str(getattr(training.optim, "value", training.optim))
    obstacles = {
        "streaming": source.streaming,
        "fsdp": training.fsdp,
        "deepspeed": training.deepspeed,
        f"optim {optimizer}": _STEPS_IN_BACKWARD.search(optimizer),
    }
    for flag in (name for name, is_given in obstacles.items() if is_given):
        raise TrainError(f"--find_learning_rate does not work with --{flag}; give --learning_rate instead")
    if training.learning_rate <= 0:
        raise TrainError(
            f"--find_learning_rate searches around --learning_rate {training.learning_rate:g}; give a positive one"
        )
    return ["--find_learning_rate is not run in a dry run"] if run.dry_run else []


def free_output_dir(preferred: str, resume: str | None) -> str:
    """Return ``preferred``; if it contains a run and none is resumed, the first free of preferred-2, preferred-3 ...

    Of two runs that start at the same moment both may get the same name; the lock of the folder then refuses one.
    """
    folder, number = preferred, 2
    while not resume and ((Path(folder) / RUN_FILE).exists() or active_process(Path(folder))):
        folder, number = f"{preferred}-{number}", number + 1
    return folder


def _dataset_name(source: SourceOptions) -> str:
    """Return a short name of the dataset, for the default output folder."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", source.short_name.rpartition("/")[2]).strip("-.") or "run"
