"""The weights of the best evaluation, and early stopping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slm_train.checkpoints.atomic_write import atomic_file

BEST_WEIGHTS_FILE = "dynamic_best.pt"


class BestWeights:
    """Tracks the best evaluation.

    ``patience`` is the number of evaluations without a better loss that end the run; None for no limit. With ``keep``,
    the trained weights of the best evaluation are stored in the run folder, and the run ends with them.
    """

    def __init__(self, folder: Path, patience: int | None, keep: bool):
        self.path, self.patience, self.keep = folder / BEST_WEIGHTS_FILE, patience, keep
        self.loss, self.step, self.evaluations_since = float("inf"), 0, 0

    def update(self, step: int, loss: float, trained_weights: Callable[[], dict[str, Tensor]]) -> None:
        """Record an evaluation. Every process must call this; the first one writes."""
        if loss >= self.loss:
            self.evaluations_since += 1
            return
        self.loss, self.step, self.evaluations_since = loss, step, 0
        if self.keep and (weights := trained_weights()):
            with atomic_file(self.path) as temporary:
                torch.save({"step": step, "loss": loss, "weights": weights}, temporary)

    @property
    def is_exhausted(self) -> bool:
        """Whether the run has to stop for lack of a better evaluation."""
        return self.patience is not None and self.evaluations_since >= self.patience

    def read_weights(self) -> dict[str, Tensor] | None:
        """Return the stored weights, or None if none are kept."""
        if not self.keep or not self.step:
            return None
        weights: dict[str, Tensor] = torch.load(self.path, map_location="cpu", weights_only=True)["weights"]
        return weights

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint. The keys are part of the format of dynamic_checkpoint.pt."""
        return {"loss": self.loss, "step": self.step, "worse": self.evaluations_since}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        self.loss, self.step, self.evaluations_since = state["loss"], state["step"], state["worse"]
