"""The costs of training: steps, seconds, and bytes of gradients and optimizer state."""

from __future__ import annotations

from typing import Any

from slm_train.loop.time_budget import TrainingTime
from slm_train.model.parameter_counts import gradient_bytes, optimizer_bytes


class TrainingCosts(TrainingTime):
    """Counts steps and the seconds spent on them; measures gradients and optimizer state once."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients = self.optimizer = 0  # bytes
        self.steps = 0

    def on_pre_optimizer_step(self, *_: Any, **named: Any) -> None:
        if not self.gradients:
            self.gradients = gradient_bytes(named["model"])

    def on_step_end(self, *positional: Any, **named: Any) -> None:
        super().on_step_end(*positional)
        self.steps += 1
        if not self.optimizer:
            self.optimizer = optimizer_bytes(named["optimizer"])
