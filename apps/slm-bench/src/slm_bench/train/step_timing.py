"""Timing of a Trainer's steps, and the number of predicted tokens in them."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from slm_train import StepCheckpoint, count_predicted


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run; field names are JSON keys."""

    speed: float  # predicted tokens per second
    step_tokens: tuple[int, ...] = ()  # predicted tokens of each full step of an epoch


class StepTimer(TrainerCallback):
    """Records the end of each step, and the seconds that the loop had waited for ``checkpoint`` until then."""

    def __init__(self, checkpoint: StepCheckpoint | None = None) -> None:
        self.checkpoint = checkpoint
        self.ends: list[float] = []
        self.waits: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(synchronized_time())
        self.waits.append(self.checkpoint.seconds if self.checkpoint else 0.0)

    @property
    def seconds(self) -> float:
        """Seconds of all steps but the first, which warms up."""
        return self.ends[-1] - self.ends[0]


def synchronized_time() -> float:
    """Return the time in seconds once the GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train_quietly(trainer: Trainer, *callbacks: TrainerCallback) -> None:
    """Train with ``callbacks`` and without progress bars."""
    for unwanted in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(unwanted)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()


def tokens_per_second(trainer: Any) -> float:
    """Train with Hugging Face's loop and return predicted tokens per second, without the first step."""
    tokens: list[int] = []
    get_batch_samples = trainer.get_batch_samples  # returns all micro-batches of a step

    def count_and_get(*args: Any) -> Any:
        batches, items = get_batch_samples(*args)
        tokens.append(sum(map(count_predicted, batches)))
        return batches, items

    trainer.get_batch_samples = count_and_get
    timer = StepTimer()
    train_quietly(trainer, timer)
    return sum(tokens[1 : len(timer.ends)]) / timer.seconds


def epoch_step_tokens(trainer: Any) -> tuple[int, ...]:
    """Return the predicted tokens of each full step of an epoch."""
    accumulation = trainer.args.gradient_accumulation_steps
    tokens = [count_predicted(batch) for batch in trainer.get_train_dataloader()]
    full = len(trainer.train_dataset) // (accumulation * trainer.args.train_batch_size)
    return tuple(sum(tokens[first : first + accumulation]) for first in range(0, full * accumulation, accumulation))
