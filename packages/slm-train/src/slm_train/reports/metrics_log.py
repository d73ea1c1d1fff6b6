"""Writing metrics.jsonl during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from slm_train.loop.time_budget import TimeBudget
from slm_train.run_folder.metrics_file import append_metrics


class MetricsLog(TrainerCallback):
    """Writes every logged step and every evaluation; with a time budget, also the seconds of training."""

    def __init__(self, folder: Path, time_budget: TimeBudget | None = None):
        self.folder, self.time_budget = folder, time_budget

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Log at the last step of a run that is shorter than the interval; it would log no loss at all."""
        is_short = args.logging_strategy == IntervalStrategy.STEPS and state.max_steps < state.logging_steps
        control.should_log |= is_short and state.global_step == state.max_steps

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **named: Any) -> None:
        logs = named.get("logs") or {}
        if (
            state.is_world_process_zero and "train_runtime" not in logs
        ):  # that is the Trainer's summary, which run.json has
            seconds = {"seconds": self.time_budget.seconds} if self.time_budget else {}
            append_metrics(self.folder, {"step": state.global_step, **seconds, **logs})
