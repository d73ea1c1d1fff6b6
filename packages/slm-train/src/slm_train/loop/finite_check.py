"""Stopping a run whose loss, gradient or weights are NaN or infinite, before any of it is saved."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from slm_train.errors import DivergenceError
from slm_train.sharding.whole_tensors import is_sharded, local_part, whole

# Below it the gradient is not finite for another reason than the range of float16 (as in fairseq: --min-loss-scale).
LEAST_LOSS_SCALE = 1e-4


class FiniteCheck:
    """Finds the first optimizer step with a loss or a gradient that is not finite.

    The steps are compared on the device. The result is read, which makes the CPU wait for a GPU, only where a run waits
    anyway: at log lines, evaluations and checkpoints; on a CPU, in a run of one process, after each step.

    With a GradScaler (float16), infinite gradients are part of its method: it skips their steps, which are counted,
    and halves the loss scale. Only if that does not help is the gradient not finite.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.is_free = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        self._loss = self._zeros(1)  # of the current step
        self._first = self._zeros(3)  # step, loss and norm of the first one that is not finite; step 0 for none
        self._skipped = self._zeros(1)  # a count
        self._rates: dict[int, float] = {}  # learning rates of the steps since the last check

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(size, device=self.accelerator.device)

    def add_loss(self, loss: Tensor) -> None:
        """Add the loss of a micro-batch to that of the step."""
        self._loss += loss.detach()

    def end_step(self, step: int, norm: Tensor | float | None, rate: float) -> None:
        """Note whether a step was finite.

        Args:
            step: Its number, counted from 1.
            norm: The norm of its gradient; None if that is unknown.
            rate: Its learning rate.
        """
        self._rates[step] = rate
        norms = self._as_tensor(norm)
        if self.accelerator.scaler is not None:
            # Counted here: accelerate 1.15 does not notice when a fused optimizer skips a step.
            self._skipped += ~torch.isfinite(norms)
            norms = self._zeros(1)
        is_finite = torch.isfinite(self._loss) & torch.isfinite(norms)
        values = torch.cat([torch.full_like(self._loss, step), self._loss, norms])
        self._first = torch.where((self._first[:1] == 0) & ~is_finite, values, self._first)
        self._loss = self._zeros(1)

    @property
    def skipped(self) -> int | None:
        """The number of steps that GradScaler has skipped; None without one. Waits for the device."""
        return None if self.accelerator.scaler is None else int(self._skipped.item())

    def _as_tensor(self, norm: Tensor | float | None) -> Tensor:
        if norm is None:
            return self._zeros(1)
        total = whole(norm) if isinstance(norm, Tensor) else norm
        return torch.as_tensor(total, dtype=torch.float32, device=self.accelerator.device).detach().reshape(1)

    def check(self) -> None:
        """Raise DivergenceError if a step was not finite. Every process must call this."""
        firsts: Any = self._first[None]
        if self.accelerator.num_processes > 1:
            firsts = self.accelerator.gather(firsts)
        found = [values for values in firsts.tolist() if values[0]]
        if found:
            step, loss, norm = min(found)
            what = f"the gradient norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
            raise DivergenceError(int(step), what, self._rates.get(int(step)))
        self._check_loss_scale()
        if self._rates:
            self._rates = dict([max(self._rates.items())])

    def _check_loss_scale(self) -> None:
        scaler = self.accelerator.scaler
        if scaler is not None and self._rates and scaler.get_scale() < LEAST_LOSS_SCALE:
            step, rate = max(self._rates.items())
            what = f"the gradient is not finite, with the loss scaled by {scaler.get_scale():.1g} for float16"
            raise DivergenceError(step, what, rate)

    def check_weights(self, model: nn.Module, step: int) -> None:
        """Raise DivergenceError if a trained weight is not finite after ``step``. Every process must call this."""
        parts = [local_part(parameter.detach()) for parameter in model.parameters() if parameter.requires_grad]
        largest = nn.utils.get_total_norm([part for part in parts if part.numel()], math.inf)
        is_lost: Any = (~torch.isfinite(largest)).float().to(self.accelerator.device)
        if is_sharded(model):
            is_lost = self.accelerator.reduce(is_lost)
        if is_lost:
            raise DivergenceError(step, "a weight became NaN or infinite", self._rates.get(step))


def check_evaluation(metrics: dict[str, Any], step: int) -> None:
    """Raise DivergenceError if the loss of an evaluation after ``step`` is not finite."""
    loss = float(metrics["eval_loss"])
    if not math.isfinite(loss):
        raise DivergenceError(step, f"the evaluation loss is {loss}")
