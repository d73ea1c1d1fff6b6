"""Timing batches on a model, which is left as it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slm_data import RowCollator, RowDataset
from slm_train.arguments import SlmTrainingArguments
from slm_train.hardware.synchronization import synchronize
from slm_train.losses.evaluation_loss import EvaluationLoss
from slm_train.time_estimate.remaining_work import Ints
from slm_train.verification.undisturbed import undisturbed

_OPTIMIZER_WEIGHTS = 2**20  # weights for which a step of Adam is timed


@dataclass(frozen=True)
class TimedModel:
    """A model before it is wrapped for several processes, and how batches are run through it.

    Attributes:
        model: A causal language model, or a PeftModel, on its device.
        training: Device, autocast and activation checkpointing.
        collate: Makes a batch of rows.
        loss_context: Context of forward passes in training.
        evaluation_loss: Computes the loss of an evaluation batch.
    """

    model: Any
    training: SlmTrainingArguments
    collate: RowCollator
    loss_context: Callable[[], AbstractContextManager[None]]
    evaluation_loss: EvaluationLoss

    @contextmanager
    def without_trace(self) -> Iterator[None]:
        """Restore gradients, buffers, modes and random generators after the block; no weight changes within it."""
        modules = list(self.model.modules())
        buffers = [(module._buffers, name, value) for module in modules for name, value in module._buffers.items()]
        values = [None if value is None else value.clone() for _, _, value in buffers]
        with self._checkpointing(), undisturbed(self.model, training=True):
            try:
                yield
            finally:
                self.model.zero_grad(set_to_none=True)
                for (owner, name, buffer), value in zip(buffers, values, strict=True):
                    owner[name] = buffer
                    if buffer is not None and value is not None:
                        buffer.copy_(value)

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """Enable activation checkpointing if the run will: the Trainer enables it later."""
        is_needed = self.training.gradient_checkpointing and not self.model.is_gradient_checkpointing
        if is_needed:
            self.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs=self.training.gradient_checkpointing_kwargs
            )
        try:
            yield
        finally:
            if is_needed:
                self.model.gradient_checkpointing_disable()

    def training_seconds(self, rows: RowDataset, batch: Ints) -> float:
        """Return the seconds of forward and backward of the rows ``batch [rows]``."""
        self.model.train()
        inputs = self._inputs(rows, batch)

        def run() -> None:
            with torch.enable_grad(), self._autocast(), self.loss_context():
                loss = self.model(**inputs, use_cache=False).loss
            loss.backward()

        return self._seconds(run)

    def evaluation_seconds(self, rows: RowDataset, batch: Ints) -> float:
        """Return the seconds of an evaluation of the rows ``batch [rows]``."""
        self.model.eval()
        inputs = self._inputs(rows, batch)
        labels = inputs.pop("labels")

        def run() -> None:
            with torch.no_grad(), self._autocast():
                self.evaluation_loss(self.model, inputs, labels)

        return self._seconds(run)

    def optimizer_seconds(self) -> float:
        """Return the seconds of a step of AdamW, scaled from one on fewer weights, which are not those of the model."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        weights = sum(parameter.numel() for parameter in trained)
        stand_in = torch.zeros(min(weights, _OPTIMIZER_WEIGHTS), device=trained[0].device, requires_grad=True)
        stand_in.grad = torch.ones_like(stand_in)
        optimizer = torch.optim.AdamW([stand_in])
        optimizer.step()
        return self._seconds(optimizer.step) * weights / len(stand_in)

    def _inputs(self, rows: RowDataset, batch: Ints) -> dict[str, Tensor]:
        collated = self.collate([rows[row] for row in batch.tolist()])
        return {name: value.to(self.training.device) for name, value in collated.items()}

    def _autocast(self) -> torch.autocast:
        training = self.training
        dtype = torch.float16 if training.fp16 else torch.bfloat16
        return torch.autocast(training.device.type, dtype, enabled=training.bf16 or training.fp16)

    def _seconds(self, run: Callable[[], object]) -> float:
        synchronize(self.training.device)
        start = time.perf_counter()
        run()
        synchronize(self.training.device)
        return time.perf_counter() - start
