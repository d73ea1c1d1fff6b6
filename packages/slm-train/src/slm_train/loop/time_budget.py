"""A run of so many minutes: when it ends, what its schedule and its intervals follow, what a resumed one has spent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from slm_train.arguments import ENDLESS
from slm_train.schedule import by_share, rate_of_now


class TrainingTime(TrainerCallback):
    """Seconds spent on training; those of evaluations and checkpoints are not."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self._mark = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._mark = time.perf_counter()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        self._mark = time.perf_counter()

    on_save = on_evaluate

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.perf_counter()
        self.seconds, self._mark = self.seconds + now - self._mark, now


class TimeBudget(TrainingTime, ExportableState):
    """Ends training when its ``minutes`` are spent, ``seconds`` of them before. The learning rate follows the share of
    the time, and so do intervals below 1 (``eval_steps`` 0.125: eight evaluations)."""

    def __init__(self, minutes: float, seconds: float = 0.0) -> None:
        super().__init__(seconds)
        self.limit = 60 * minutes

    @property
    def share(self) -> float:
        """Of the time, from 0 to 1."""
        return min(self.seconds / self.limit, 1.0)

    def state(self) -> dict[str, Any]:
        """What the Trainer keeps in a checkpoint."""
        return {"args": {}, "attributes": {"seconds": self.seconds}}

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        state: TrainerState = given[1]
        kept: Any = state.stateful_callbacks
        kept[type(self).__name__] = self.state()  # a checkpoint of a run without a limit has none
        by_share(named["lr_scheduler"], lambda: self.share, ENDLESS)
        super().on_train_begin()

    def on_step_end(self, *given: Any, **named: Any) -> None:
        args: TrainingArguments = given[0]
        control: TrainerControl = given[2]
        before = self.share
        super().on_step_end()
        self.seconds = _agreed(self.seconds, args.device)
        rate_of_now(named["lr_scheduler"])
        over = self.share >= 1
        control.should_log |= self._due(args.logging_strategy, args.logging_steps, before)
        control.should_evaluate |= self._due(args.eval_strategy, args.eval_steps, before, at_the_end=over)
        control.should_save |= self._due(args.save_strategy, args.save_steps, before, at_the_end=over)
        control.should_training_stop |= over

    def _due(self, strategy: str, interval: float | None, before: float, *, at_the_end: bool = False) -> bool:
        """Whether a multiple of ``interval``, a share of the run, lies between ``before`` and now."""
        if strategy != "steps":
            return False
        if interval and interval < 1 and self.share // interval > before // interval:
            return True
        return at_the_end


def spent(checkpoint: Path) -> float:
    """Seconds of training before ``checkpoint`` was written; 0 where that run had no limit."""
    kept: Any = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).stateful_callbacks
    return float(kept.get(TimeBudget.__name__, {}).get("attributes", {}).get("seconds", 0.0))


def _agreed(seconds: float, device: torch.device) -> float:
    """Those of the first process, in all: they stop after the same step."""
    if not distributed.is_initialized():
        return seconds
    told = torch.tensor(seconds, device=device)
    distributed.broadcast(told, 0)
    return float(told)
