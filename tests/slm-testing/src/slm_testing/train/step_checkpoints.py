"""Step checkpoints of a linear layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from slm_train.step_checkpoint import StepCheckpoint, random_state


class Held:
    """What accelerate's optimizer is, as far as a checkpoint looks."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer


def saved(folder: Path, step: int = 1, said: list[str] | None = None) -> tuple[StepCheckpoint, torch.nn.Linear]:
    torch.manual_seed(step)
    model = torch.nn.Linear(4, 3)
    checkpoint = StepCheckpoint(folder, {"mode": "baseline"}, (said if said is not None else []).append)
    save(checkpoint, model, step)
    return checkpoint, model


def save(checkpoint: StepCheckpoint, model: torch.nn.Module, step: int) -> None:
    optimizer: Any = Held(torch.optim.AdamW(model.parameters()))
    checkpoint.save(Accelerator(cpu=True), model, optimizer, {"step": step}, {"random": random_state()})
