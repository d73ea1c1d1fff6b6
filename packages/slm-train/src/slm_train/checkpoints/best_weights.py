"""The best weights by evaluation, and when to stop looking for better ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slm_train.checkpoint import writing_file

BEST = "dynamic_best.pt"


class Best:
    """``patience``: evaluations without a better loss that end the run, None for never. With ``keep``, the trained
    weights of the best one lie in the run folder, and are those that the run ends with."""

    def __init__(self, folder: Path, patience: int | None, keep: bool):
        self.path, self.patience, self.keep = folder / BEST, patience, keep
        self.loss, self.step, self.worse = float("inf"), 0, 0

    def see(self, step: int, loss: float, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Every process must tell; the first one writes."""
        if loss >= self.loss:
            self.worse += 1
            return
        self.loss, self.step, self.worse = loss, step, 0
        if self.keep and (found := weights()):
            with writing_file(self.path) as aside:
                torch.save({"step": step, "loss": loss, "weights": found}, aside)

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.worse >= self.patience

    def weights(self) -> dict[str, Tensor] | None:
        if not self.keep or not self.step:
            return None
        found: dict[str, Tensor] = torch.load(self.path, map_location="cpu", weights_only=True)["weights"]
        return found

    def state(self) -> dict[str, Any]:
        return {"loss": self.loss, "step": self.step, "worse": self.worse}

    def restore(self, state: dict[str, Any]) -> None:
        self.loss, self.step, self.worse = state["loss"], state["step"], state["worse"]
