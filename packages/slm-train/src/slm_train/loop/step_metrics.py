"""Metrics of the steps since the last log line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from slm_train.hardware.memory_usage import MemoryUsage


@dataclass
class StepSums:
    """Sums over steps. The names of the fields are part of the format of dynamic_checkpoint.pt.

    ``loss`` is the summed negative log likelihood, in nats, of this process's tokens. It stays on the device and is
    read only for log lines and checkpoints, because reading it makes the CPU wait for a GPU.
    """

    loss: Tensor
    predicted: int = 0  # tokens with a loss, of all processes
    real: int = 0  # tokens of this process
    slots: int = 0  # tokens of its micro-batches, padding included
    seconds: float = 0.0


class StepMetrics:
    """Adds up the sums of steps, and makes log lines of them."""

    def __init__(self, device: torch.device):
        self.device = device
        self.sums = self._zero()
        self.last: dict[str, Any] = {}  # of the last step: tokens since the run began, gradient norm, learning rate

    def _zero(self) -> StepSums:
        return StepSums(torch.zeros((), device=self.device))

    def add(self, step: StepSums, **last: Any) -> None:
        """Add a step.

        ``last`` are ``tokens`` predicted since the run began, the ``norm`` of the gradient, and the learning ``rate``.
        """
        for part in fields(StepSums):
            setattr(self.sums, part.name, getattr(self.sums, part.name) + getattr(step, part.name))
        self.last = last

    def log_line(self, accelerator: Accelerator, memory: MemoryUsage) -> dict[str, Any]:
        """Return a log line and reset the sums. Every process must call this: the loss is summed over all."""
        sums, self.sums = self.sums, self._zero()
        total: Any = accelerator.reduce(sums.loss, "sum") if accelerator.num_processes > 1 else sums.loss
        norm = self.last["norm"]
        return {
            "loss": total.item() / max(sums.predicted, 1),
            "learning_rate": self.last["rate"],
            "grad_norm": None if norm is None else norm.item(),
            "tokens": self.last["tokens"],
            "tokens_per_second": sums.predicted / max(sums.seconds, 1e-9),
            "utilisation": sums.real / max(sums.slots, 1),
            "memory": memory.current(),
        }

    def state(self) -> dict[str, Any]:
        """Return the sums as plain values, for a checkpoint."""
        return vars(self.sums) | {"loss": self.sums.loss.item()}

    def restore(self, state: dict[str, Any]) -> None:
        """Set the sums to those of a checkpoint."""
        self.sums = StepSums(**state | {"loss": torch.tensor(state["loss"], device=self.device)})
