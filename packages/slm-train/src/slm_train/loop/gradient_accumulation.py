"""Accumulating the gradient of a step over micro-batches, which are split if memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from slm_train.hardware.out_of_memory import is_out_of_memory
from slm_train.loop.micro_batches import MicroBatch, count_predicted, split_micro_batch, without_loss
from slm_train.losses.loss_normalization import summed_loss

# Takes the model, a micro-batch on the device, and the predicted tokens of the micro-batch and of the step; see
# ``loss_normalization.step_mean``.
ScaledLoss = Callable[[nn.Module, MicroBatch, int, int], Tensor]


class GradientAccumulation:
    """Accumulates the gradient of a step.

    ``max_slots`` is None until memory runs out. From then on it bounds the tokens of micro-batches, padding included.

    Args:
        accelerator: For the device, the backward pass and the exchange of gradients.
        scaled_loss: The part of a micro-batch in the loss of its step.
        print_line: Prints a line.
        is_sharded: Whether each process has only a part of the weights (``--fsdp``).
    """

    def __init__(
        self,
        accelerator: Accelerator,
        scaled_loss: ScaledLoss,
        print_line: Callable[[str], None],
        *,
        is_sharded: bool = False,
    ):
        self.accelerator, self.scaled_loss, self.print_line = accelerator, scaled_loss, print_line
        self.ranks = accelerator.num_processes
        self.is_sharded = is_sharded
        self.max_slots: int | None = None

    def __call__(self, model: nn.Module, batches: list[MicroBatch], step_tokens: int, max_batches: int) -> Tensor:
        """Leave the gradient of a step in ``model``.

        If memory runs out, the gradient is discarded and the whole step repeated with smaller micro-batches: the
        accumulated gradient may contain a part of the one that failed.

        Args:
            model: The model, as accelerate wrapped it.
            batches: The micro-batches of this process.
            step_tokens: Predicted tokens of the step, on all processes.
            max_batches: The largest number of micro-batches that a process has in this step.

        Returns:
            The summed loss of ``batches``, in nats.

        Raises:
            torch.OutOfMemoryError, RuntimeError: If a single row does not fit in memory.
        """
        while True:
            parts = [part for batch in batches for part in split_micro_batch(batch, self.max_slots)]
            if self.is_sharded:  # weights are gathered in each pass, so all processes need the same number of parts
                parts += [without_loss(parts[-1])] * (max_batches - len(parts))
            finished, total = 0, torch.zeros((), device=self.accelerator.device)
            try:
                for finished, part in enumerate(parts):
                    total += self._backward(model, part, step_tokens, is_last=finished + 1 == len(parts))
                return total
            except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
                is_last = finished + 1 == len(parts)
                if not is_out_of_memory(error) or not self._halve(parts[finished], is_last=is_last):
                    raise
            model.zero_grad()
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()

    def _backward(self, model: nn.Module, part: MicroBatch, step_tokens: int, *, is_last: bool) -> Tensor:
        """Add the gradient of a micro-batch. Processes exchange gradients in the last one only."""
        inputs = {name: value.to(self.accelerator.device, non_blocking=True) for name, value in part.items()}
        # Otherwise DDP would exchange gradients after each micro-batch.
        with nullcontext() if is_last else self.accelerator.no_sync(model):
            loss = self.scaled_loss(model, inputs, count_predicted(part), step_tokens)
            self.accelerator.backward(loss)
        return summed_loss(loss, step_tokens, self.ranks)

    def _halve(self, part: MicroBatch, *, is_last: bool) -> bool:
        """Bound micro-batches by half of ``part``; return False if that cannot help.

        That is the case for a single row, and where other processes may already be waiting to exchange this gradient.
        """
        rows, longest = part["input_ids"].shape
        if rows == 1 or self.is_sharded or (is_last and self.ranks > 1):
            return False
        if self.max_slots is None:
            self.print_line(
                f"out of memory in a micro-batch of {rows} x {longest} tokens: micro-batches are split from now on, "
                "with the same gradients (--max_tokens_per_micro_batch sets their size)"
            )
        self.max_slots = (rows + 1) // 2 * longest
        return True
