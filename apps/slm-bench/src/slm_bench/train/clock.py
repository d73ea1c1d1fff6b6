"""How long the steps of a Trainer take, and how many tokens with a loss they hold."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from slm_train import StepCheckpoint
from slm_train import count_predicted as predicted


@dataclass(frozen=True)
class Outcome:
    """Of one run: tokens with a loss a second, and those of each full step of an epoch."""

    speed: float
    step_tokens: tuple[int, ...] = ()


class Clock(TrainerCallback):
    """When each step ended, and how long the loop had waited for ``checkpoint`` by then."""

    def __init__(self, checkpoint: StepCheckpoint | None = None) -> None:
        self.checkpoint = checkpoint
        self.ends: list[float] = []
        self.waits: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(now())
        self.waits.append(self.checkpoint.seconds if self.checkpoint else 0.0)

    @property
    def seconds(self) -> float:
        """Of all steps but the first."""
        return self.ends[-1] - self.ends[0]


def now() -> float:
    """Seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train(trainer: Trainer, *callbacks: TrainerCallback) -> None:
    """Without a progress bar."""
    for unwanted in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(unwanted)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()


def timed(trainer: Any) -> float:
    """Tokens with a loss a second of Hugging Face's own loop, which takes the micro-batches of a step all at once."""
    taken: list[int] = []
    take = trainer.get_batch_samples

    def counted(*given: Any) -> Any:
        batches, items = take(*given)
        taken.append(sum(map(predicted, batches)))
        return batches, items

    trainer.get_batch_samples = counted
    clock = Clock()
    train(trainer, clock)
    return sum(taken[1 : len(clock.ends)]) / clock.seconds


def epoch_of(trainer: Any) -> tuple[int, ...]:
    """Tokens with a loss of each full step of an epoch."""
    micro, each = trainer.args.gradient_accumulation_steps, list(map(predicted, trainer.get_train_dataloader()))
    full = len(trainer.train_dataset) // (micro * trainer.args.train_batch_size)
    return tuple(sum(each[at : at + micro]) for at in range(0, full * micro, micro))
