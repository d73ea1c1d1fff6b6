"""Training for a number of minutes (``--max_minutes``), with schedule and intervals by the fraction of that time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from slm_train.arguments import UNLIMITED_STEPS, Arguments
from slm_train.hardware.synchronization import synchronize
from slm_train.loop.learning_rate import follow_fraction, update_learning_rate


class TrainingTime(TrainerCallback):
    """Counts the seconds spent on training, excluding evaluations, checkpoints and text samples.

    Before these, and where training ends, a GPU is waited for: its queued steps are training.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._measured_from = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._measured_from = time.perf_counter()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._measured_from = time.perf_counter()

    on_save = on_evaluate

    def exclude(self, seconds: float) -> None:
        """Do not count the last ``seconds``, which were spent on something else during ``on_step_end``."""
        # Holds in both orders of callbacks: if this one's on_step_end comes later, it measures from a later moment.
        self._measured_from += seconds

    def on_step_end(self, *positional: Any, **_: Any) -> None:
        args: TrainingArguments = positional[0]
        if _is_interrupted(*positional[1:]):
            synchronize(args.device)
        now = time.perf_counter()
        self.seconds, self._measured_from = self.seconds + now - self._measured_from, now


class TimeBudget(TrainingTime, ExportableState):
    """Ends training after ``minutes``; ``seconds`` of them were spent before the run was resumed.

    The learning rate follows the fraction of the time, and so do intervals below 1 (``eval_steps`` 0.125: eight
    evaluations). The name of this class is part of the format of trainer_state.json.
    """

    def __init__(self, minutes: float, seconds: float = 0.0) -> None:
        super().__init__(seconds)
        self.limit = 60 * minutes

    @property
    def fraction(self) -> float:
        """The fraction of the time that has been spent, from 0 to 1."""
        return min(self.seconds / self.limit, 1.0)

    def state(self) -> dict[str, Any]:
        """Return what the Trainer stores in a checkpoint."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(self, *positional: Any, **named: Any) -> None:
        state: TrainerState = positional[1]
        callback_states: Any = state.stateful_callbacks
        # A run that is resumed from a checkpoint without a time limit has no entry for this callback yet.
        callback_states[type(self).__name__] = self.state()
        follow_fraction(named["lr_scheduler"], lambda: self.fraction, UNLIMITED_STEPS)
        update_learning_rate(named["lr_scheduler"])  # a resumed run may have another limit
        super().on_train_begin()

    def on_step_end(self, *positional: Any, **named: Any) -> None:
        args: TrainingArguments = positional[0]
        control: TrainerControl = positional[2]
        before = self.fraction
        super().on_step_end(*positional)
        self.seconds = _seconds_of_first_process(self.seconds, args.device)
        update_learning_rate(named["lr_scheduler"])
        is_over = self.fraction >= 1
        control.should_log |= self._is_due(args.logging_strategy, args.logging_steps, before)
        control.should_evaluate |= self._is_due(args.eval_strategy, args.eval_steps, before, at_the_end=is_over)
        control.should_save |= self._is_due(args.save_strategy, args.save_steps, before, at_the_end=is_over)
        control.should_training_stop |= is_over

    def _is_due(self, strategy: str, interval: float | None, before: float, *, at_the_end: bool = False) -> bool:
        """Return whether a multiple of ``interval``, a fraction of the run, lies between ``before`` and now."""
        if strategy != "steps":
            return False
        if interval and interval < 1 and self.fraction // interval > before // interval:
            return True
        return at_the_end


def _is_interrupted(state: TrainerState, control: TrainerControl) -> bool:
    """Return whether training is followed by something else after this step."""
    is_last = control.should_training_stop or state.global_step >= state.max_steps
    return is_last or control.should_log or control.should_evaluate or control.should_save


def make_time_budget(arguments: Arguments, checkpoint: Path | None) -> TimeBudget | None:
    """Return what remains of the time of a run that continues from ``checkpoint``; None without ``--max_minutes``."""
    if arguments.run.max_minutes is None:
        return None
    return TimeBudget(arguments.run.max_minutes, read_seconds_spent(checkpoint) if checkpoint else 0.0)


def read_seconds_spent(checkpoint: Path) -> float:
    """Return the training seconds before ``checkpoint`` was written; 0 if that run had no time limit."""
    states: Any = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).stateful_callbacks
    return float(states.get(TimeBudget.__name__, {}).get("attributes", {}).get("seconds", 0.0))


def _seconds_of_first_process(seconds: float, device: torch.device) -> float:
    """Return the seconds of the first process, on every process: all must stop after the same step."""
    if not distributed.is_initialized():
        return seconds
    shared = torch.tensor(seconds, device=device)
    distributed.broadcast(shared, 0)
    return float(shared)
