"""Step checkpoints of a linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from slm_train.checkpoints.random_state import random_state
from slm_train.checkpoints.step_checkpoint import StepCheckpoint


class WrappedOptimizer:
    """Wraps an optimizer like accelerate does, as far as a checkpoint uses it."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer


def saved(
    folder: Path, step: int = 1, printed: list[str] | None = None, *, is_automatic: bool = False
) -> tuple[StepCheckpoint, torch.nn.Linear]:
    """Save a checkpoint of a new layer; return both. Lines that it prints are added to ``printed``."""
    torch.manual_seed(step)
    model = torch.nn.Linear(4, 3)
    print_line = (printed if printed is not None else []).append
    checkpoint = StepCheckpoint(folder, {"mode": "baseline"}, print_line, is_automatic=is_automatic)
    save(checkpoint, model, step)
    return checkpoint, model


def save(checkpoint: StepCheckpoint, model: torch.nn.Module, step: int) -> None:
    optimizer: Any = WrappedOptimizer(torch.optim.AdamW(model.parameters()))
    checkpoint.save(Accelerator(cpu=True), model, optimizer, {"step": step}, {"random": random_state()})
