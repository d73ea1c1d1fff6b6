"""``Run``: what a training run consists of while it is in progress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slm_data import BudgetPlan
from slm_train.arguments import Arguments
from slm_train.checkpoints.best_weights import BestWeights
from slm_train.checkpoints.resume import Start
from slm_train.data.rows import Rows, Tokens, optimizer_steps
from slm_train.hardware.memory_usage import MemoryUsage
from slm_train.loop.time_budget import TimeBudget
from slm_train.model.base_model import BaseModel


@dataclass
class Run:
    """A run in progress: options, start, model, rows, plan, and the record that is written to run.json."""

    arguments: Arguments
    start: Start
    base: BaseModel
    tokens: Tokens
    rows: Rows
    memory: MemoryUsage
    record: dict[str, Any]
    plan: BudgetPlan | None  # None in the Trainer flow
    time_budget: TimeBudget | None  # None without --max_minutes
    best: BestWeights
    changed: frozenset[str] = frozenset()  # flags that differ from those of the run that is continued

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return len(self.plan) if self.plan else optimizer_steps(self.arguments, self.rows)

    @property
    def has_finished_training(self) -> bool:
        """Whether the checkpoint to continue from is the last one of the run."""
        is_out_of_time = self.time_budget is not None and self.time_budget.fraction >= 1
        return self.start.step >= self.steps or is_out_of_time or self.best.is_exhausted
