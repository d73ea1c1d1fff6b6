"""A Trainer that stops where its loss, gradient or weights are not finite."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from slm_train.loop.finite_check import FiniteCheck
from slm_train.sharding.sharding_trainer import ShardingTrainer


class FiniteTrainer(ShardingTrainer):
    """A Trainer that raises DivergenceError before a step that was not finite is logged, evaluated or saved."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.finite_check = FiniteCheck(self.accelerator)

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        loss = super().training_step(*arguments, **named)
        self.finite_check.add_loss(loss)
        return loss

    def _get_grad_norm(self, *arguments: Any, **named: Any) -> Any:
        """Return the norm of the gradient; transformers 5.19 calls this once for each optimizer step."""
        norm = super()._get_grad_norm(*arguments, **named)
        self.finite_check.end_step(self.state.global_step + 1, norm, self._get_learning_rate())
        return norm

    def _maybe_log_save_evaluate(self, *arguments: Any, **named: Any) -> None:
        """Log, evaluate and save what is due, unless the step was not finite. transformers 5.19: after each step."""
        control = self.control
        is_saved = control.should_evaluate or control.should_save or control.should_training_stop
        self.check_finite(is_read=control.should_log, is_saved=is_saved)
        super()._maybe_log_save_evaluate(*arguments, **named)

    def check_finite(self, *, is_read: bool = False, is_saved: bool = False) -> None:
        """Raise DivergenceError if a step was not finite. Every process must call this.

        Args:
            is_read: Whether figures of the step are about to be read, so that this costs no further wait for a GPU.
            is_saved: Whether the weights are about to be used or saved; they are checked as well.
        """
        if is_read or is_saved or self.finite_check.is_free:
            self.finite_check.check()
        if is_saved:
            model: Any = self.model
            self.finite_check.check_weights(model, self.state.global_step)
