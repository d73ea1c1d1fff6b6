"""What has been seen since the last line of the log."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from slm_train.accounting import Memory


@dataclass
class Seen:
    """Sums over steps. ``loss``: negative log likelihood, in nats, of this process's tokens, on the device: reading
    it waits for a GPU, so only a line of the log and a checkpoint do."""

    loss: Tensor
    predicted: int = 0  # tokens with a loss, of all processes
    real: int = 0  # tokens of this process
    slots: int = 0  # places of its micro-batches, padding counted
    seconds: float = 0.0


class Tally:
    """Adds up what was seen, and makes lines of it."""

    def __init__(self, device: torch.device):
        self.device = device
        self.since = self._nothing()
        self.last: dict[str, Any] = {}  # of the last step: tokens since the run began, gradient norm, learning rate

    def _nothing(self) -> Seen:
        return Seen(torch.zeros((), device=self.device))

    def add(self, seen: Seen, **last: Any) -> None:
        """A step. ``last``: ``tokens`` predicted since the run began, ``norm`` of its gradient, learning ``rate``."""
        for part in fields(Seen):
            setattr(self.since, part.name, getattr(self.since, part.name) + getattr(seen, part.name))
        self.last = last

    def line(self, accelerator: Accelerator, memory: Memory) -> dict[str, Any]:
        """A line of the log; the sums begin anew. Every process must ask."""
        since, self.since = self.since, self._nothing()
        total: Any = accelerator.reduce(since.loss, "sum") if accelerator.num_processes > 1 else since.loss
        norm = self.last["norm"]
        return {
            "loss": total.item() / max(since.predicted, 1),
            "learning_rate": self.last["rate"],
            "grad_norm": None if norm is None else norm.item(),
            "tokens": self.last["tokens"],
            "tokens_per_second": since.predicted / max(since.seconds, 1e-9),
            "utilisation": since.real / max(since.slots, 1),
            "memory": memory.now(),
        }

    def state(self) -> dict[str, Any]:
        return vars(self.since) | {"loss": self.since.loss.item()}

    def restore(self, state: dict[str, Any]) -> None:
        self.since = Seen(**state | {"loss": torch.tensor(state["loss"], device=self.device)})
