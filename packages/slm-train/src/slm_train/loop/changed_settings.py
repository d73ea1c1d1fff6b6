"""Making accepted changes effective: optimizer and schedule are restored with the settings of their checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from slm_train.loop.learning_rate import update_learning_rate
from slm_train.options.flag_effects import SCHEDULE

_GROUP_ENTRIES = {
    "learning_rate": "initial_lr",
    "weight_decay": "weight_decay",
    "adam_beta1": "betas",
    "adam_beta2": "betas",
    "adam_epsilon": "eps",
}


class NewSettings:
    """The settings of an optimizer and a schedule, to be read before a checkpoint replaces them.

    Args:
        optimizer: The optimizer, new.
        schedule: Its schedule, new.
        changed: The flags whose new values are to be used.
    """

    def __init__(self, optimizer: Any, schedule: Any, changed: Collection[str]):
        self.optimizer, self.schedule, self.changed = optimizer, schedule, set(changed)
        entries = {_GROUP_ENTRIES[name] for name in self.changed & _GROUP_ENTRIES.keys()}
        self.groups = [{name: group[name] for name in entries if name in group} for group in optimizer.param_groups]
        self.base_rates = list(getattr(schedule, "base_lrs", []))

    def apply(self) -> None:
        """Put the new values of the changed flags into the restored optimizer and schedule."""
        for group, values in zip(self.optimizer.param_groups, self.groups, strict=True):
            group.update(values)
        if self.changed & SCHEDULE and isinstance(self.schedule, LambdaLR):
            self.schedule.base_lrs = self.base_rates
            update_learning_rate(self.schedule)

    def continue_at(self, step: int) -> None:
        """Move the new schedule to ``step``: the checkpoint has none."""
        if isinstance(self.schedule, LambdaLR):
            self.schedule.last_epoch, self.schedule._step_count = step, step + 1
            update_learning_rate(self.schedule)
