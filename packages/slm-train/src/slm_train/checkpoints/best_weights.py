"""The weights of the best evaluation, and early stopping."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.trainer import TRAINER_STATE_NAME

from slm_train.checkpoints.files.atomic_write import atomic_file
from slm_train.checkpoints.step_checkpoint_file import read_verified
from slm_train.errors import CheckpointError

STATE_NAME = "BestWeights"  # among the stateful callbacks of trainer_state.json
_FILE_NAME = re.compile(r"best-(\d+)\.pt")


class BestWeights:
    """Tracks the best evaluation during training; the one of the base model, before training, does not count.

    ``patience`` is the number of evaluations without a better loss that end the run; None for no limit. With ``keep``,
    the trained weights of the best evaluation are stored in the run folder, in ``best-STEP.pt``, and the run ends with
    them. The file of an earlier best evaluation stays as long as there is a checkpoint that resumes with it.
    """

    def __init__(self, folder: Path, patience: int | None = None, keep: bool = False):
        self.folder, self.patience, self.keep = folder, patience, keep
        self.metrics: dict[str, Any] = {}
        self.loss, self.step, self.evaluations_since, self._is_stored = float("inf"), 0, 0, False

    @property
    def is_used(self) -> bool:
        """Whether the run depends on its evaluations."""
        return self.keep or self.patience is not None

    @property
    def is_exhausted(self) -> bool:
        """Whether the run has to stop for lack of a better evaluation."""
        return self.patience is not None and self.evaluations_since >= self.patience

    def update(self, step: int, metrics: dict[str, Any], trained_weights: Callable[[], dict[str, Tensor]]) -> bool:
        """Record an evaluation and return whether it is the best. Every process must call this; the first one writes.

        Args:
            step: The number of optimizer steps taken.
            metrics: The figures of the evaluation, by the names of the Trainer.
            trained_weights: Returns the trained weights by name on the first process, and none on the others.
        """
        loss = float(metrics["eval_loss"])
        if not loss < self.loss:  # so written because NaN is not better
            self.evaluations_since += 1
            return False
        self.loss, self.step, self.evaluations_since = loss, step, 0
        self.metrics, self._is_stored = dict(metrics), self.keep
        if self.keep and (weights := trained_weights()):
            with atomic_file(self._file(step)) as temporary:
                torch.save({"step": step, "loss": loss, "weights": weights}, temporary)
        return True

    def read_weights(self) -> dict[str, Tensor] | None:
        """Return the stored weights, or None if none are kept. Raises CheckpointError for a damaged file."""
        if not self.keep or not self._is_stored:
            return None
        content = read_verified(self._file(self.step), "a file of the best weights")
        if content.get("step") != self.step or content.get("loss") != self.loss:
            raise CheckpointError(f"{self._file(self.step)} has the weights of another run; restore a copy of it")
        weights: dict[str, Tensor] = content["weights"]
        return weights

    def remove_except(self, steps: set[int]) -> None:
        """Delete the stored weights of all steps but the best one and ``steps``."""
        for step, path in stored_weights(self.folder).items():
            if step not in steps | {self.step}:
                path.unlink(missing_ok=True)

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint. The keys are part of the formats of both kinds of checkpoints."""
        best = {"loss": self.loss, "step": self.step, "worse": self.evaluations_since}
        return best | {"metrics": self.metrics, "stored": self._is_stored}

    def restore(self, state: dict[str, Any], print_line: Callable[[str], None]) -> None:
        """Restore what ``state`` returned.

        If this run keeps the best weights, and the one before did not, only later evaluations count.

        Raises CheckpointError if the best weights were stored and are gone.
        """
        is_stored = bool(state.get("stored"))  # the first version of the state did not have it
        if self.keep and state["step"] and not is_stored:
            print_line(
                f"the weights of the best evaluation so far, at step {state['step']:,}, were not stored: --keep_best "
                "chooses among the evaluations from here on"
            )
            return
        if self.keep and is_stored and not self._file(state["step"]).exists():
            raise CheckpointError(
                f"{self._file(state['step'])}, the weights of the best evaluation, is gone; restore a copy of it, or "
                "start again with --overwrite_output_dir"
            )
        self.loss, self.step, self.evaluations_since = state["loss"], state["step"], state["worse"]
        self.metrics, self._is_stored = state.get("metrics", {}), is_stored and self.keep

    def _file(self, step: int) -> Path:
        return self.folder / f"best-{step}.pt"


def stored_weights(folder: Path) -> dict[int, Path]:
    """Return the files of best weights in a run folder by their step."""
    matches = {path: _FILE_NAME.fullmatch(path.name) for path in folder.glob("best-*.pt")}
    return {int(match[1]): path for path, match in matches.items() if match}


def read_best_state(checkpoint: Path) -> dict[str, Any] | None:
    """Return the state of ``BestWeights`` in a checkpoint of the Trainer; None if it has none."""
    return read_callback_state(checkpoint, STATE_NAME)


def read_callback_state(checkpoint: Path, name: str) -> dict[str, Any] | None:
    """Return what is stored as the state of the callback ``name`` in a checkpoint of the Trainer; None for nothing."""
    path = checkpoint / TRAINER_STATE_NAME
    if not path.is_file():
        return None
    callbacks = json.loads(path.read_text()).get("stateful_callbacks", {})
    state: dict[str, Any] | None = callbacks.get(name, {}).get("attributes")
    return state
