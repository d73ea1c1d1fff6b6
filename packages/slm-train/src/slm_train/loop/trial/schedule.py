"""Building the learning-rate schedule on a dummy optimizer, to find faults of its settings before a run starts."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

from slm_train.errors import TrainError

_UNKNOWN_LENGTH = 1_000_000  # steps; long, so that only what is wrong at any length is found
# Settings without which a schedule cannot be built, or is only warmup, with the reason.
_EXAMPLES = {
    SchedulerType.WARMUP_STABLE_DECAY: '{"num_decay_steps": 20}',
    SchedulerType.COSINE_WITH_MIN_LR: '{"min_lr_rate": 0.1}',
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: '{"min_lr_rate": 0.1}',
    SchedulerType.COSINE_WITH_RESTARTS: '{"num_cycles": 2}',
    SchedulerType.POLYNOMIAL: '{"lr_end": 0.0, "power": 2}',
    SchedulerType.INVERSE_SQRT: '{"timescale": 1000}',
    SchedulerType.REDUCE_ON_PLATEAU: '{"factor": 0.5, "patience": 2}',
    SchedulerType.GREEDY: '{"factor": 0.95}',
}
_WITHOUT_SETTINGS = {SchedulerType.CONSTANT, SchedulerType.CONSTANT_WITH_WARMUP}
_FOLLOW_EVALUATIONS = {SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY}


def check_schedule(training: TrainingArguments, steps: int | None = None) -> list[str]:
    """Return lines to print about settings without effect. Raises TrainError if the schedule cannot be built.

    ``steps`` is the number of optimizer steps of the run; None before it is known.
    """
    kind = SchedulerType(training.lr_scheduler_type)
    if steps and kind == SchedulerType.WARMUP_STABLE_DECAY:
        _check_decay(training, steps)
    length = steps or (training.max_steps if training.max_steps > 0 else _UNKNOWN_LENGTH)
    try:
        rates = _rates(training, kind, length)
    except Exception as error:  # a library's own objects with a user's settings: any error is one of the settings
        raise TrainError(_message(training, kind, str(error) or type(error).__name__)) from error
    if not all(isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0 for rate in rates):
        raise TrainError(_message(training, kind, "it has rates that are negative or not finite"))
    if training.lr_scheduler_kwargs and kind in _WITHOUT_SETTINGS:
        return [f"--lr_scheduler_kwargs has no effect with --lr_scheduler_type {kind.value}"]
    return []


def _check_decay(training: TrainingArguments, steps: int) -> None:
    """Raise TrainError for a run that is shorter than warmup and decay: its rate would begin in the middle of them."""
    settings: Any = training.lr_scheduler_kwargs
    warmup, decay = training.get_warmup_steps(steps), settings["num_decay_steps"]
    if warmup + decay > steps:
        raise TrainError(
            f"--lr_scheduler_type warmup_stable_decay: warmup ({warmup:,}) and num_decay_steps ({decay:,}) are longer "
            f"than the run of {steps:,}; give fewer"
        )


def _rates(training: TrainingArguments, kind: SchedulerType, length: int) -> list[float]:
    """Return the learning rates at a few steps from the first to the last."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    settings: Any = training.lr_scheduler_kwargs  # a dict or None; annotated more widely than get_scheduler accepts
    schedule = get_scheduler(
        kind,
        optimizer=optimizer,
        num_warmup_steps=training.get_warmup_steps(length),
        num_training_steps=length,
        scheduler_specific_kwargs=settings,
    )
    if kind in _FOLLOW_EVALUATIONS:
        for loss in (1.0, 2.0, 3.0):
            schedule.step(loss)
        return [group["lr"] for group in optimizer.param_groups]
    steps = {0, 1, 2, length // 4, length // 2, 3 * length // 4, length - 1, length}
    return [training.learning_rate * function(step) for step in sorted(steps) for function in schedule.lr_lambdas]


def _message(training: TrainingArguments, kind: SchedulerType, reason: str) -> str:
    settings = training.lr_scheduler_kwargs
    given = f" --lr_scheduler_kwargs '{json.dumps(settings)[:200]}'" if settings else ""
    remedy = "leave out --lr_scheduler_kwargs"
    if kind in _EXAMPLES:
        remedy = f"give --lr_scheduler_kwargs '{_EXAMPLES[kind]}' or the like, or another --lr_scheduler_type"
    return f"--lr_scheduler_type {kind.value}{given} does not work: {' '.join(reason.split()).rstrip('.')}; {remedy}"
