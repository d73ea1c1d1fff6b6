"""The gradient of a step, a micro-batch at a time, in the memory that there is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from slm_train.memory_errors import is_out_of_memory
from slm_train.micro_batches import Batch, predicted, split, without_loss

LossOf = Callable[[nn.Module, Batch, int, int], Tensor]


class Accumulation:
    """Adds up gradients. ``loss`` of a model, a batch on the device, the batch's predicted tokens and those of the
    step: the batch's part of the step's mean, in nats, times the number of processes, over which gradients are
    averaged. ``most_slots`` bounds micro-batches once memory ran out, to the end of the run."""

    def __init__(self, accelerator: Accelerator, loss: LossOf, say: Callable[[str], None]):
        self.accelerator, self.loss, self.say = accelerator, loss, say
        self.ranks = accelerator.num_processes
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        self.most_slots: int | None = None

    def __call__(self, model: nn.Module, batches: list[Batch], tokens: int, most_batches: int) -> Tensor:
        """Leave the gradients of a step in ``model``; return the summed loss of this process's ``batches``, in nats.

        ``tokens``: predicted ones of the step, on all processes; ``most_batches``: micro-batches of the process that
        has the most. Where memory runs out, the step is done anew in smaller parts: what was added up by then may
        hold half of a micro-batch. Raises what torch raised where a single row does not fit.
        """
        while True:
            parts = [part for batch in batches for part in split(batch, self.most_slots)]
            if self.sharded:  # processes meet in every micro-batch
                parts += [without_loss(parts[-1])] * (most_batches - len(parts))
            done, total = 0, torch.zeros((), device=self.accelerator.device)
            try:
                for done, part in enumerate(parts):
                    total += self._backward(model, part, tokens, last=done + 1 == len(parts))
                return total
            except (RuntimeError, MemoryError) as fault:  # torch's own lack of memory is a RuntimeError
                if not is_out_of_memory(fault) or not self._halved(parts[done], last=done + 1 == len(parts)):
                    raise
            model.zero_grad()
            if self.accelerator.device.type == "cuda":
                torch.cuda.empty_cache()

    def _backward(self, model: nn.Module, part: Batch, tokens: int, *, last: bool) -> Tensor:
        """Add the gradient of a micro-batch. Processes meet at the last one that each has."""
        inputs = {name: value.to(self.accelerator.device, non_blocking=True) for name, value in part.items()}
        with nullcontext() if last else self.accelerator.no_sync(model):
            loss = self.loss(model, inputs, predicted(part), tokens)
            self.accelerator.backward(loss)
        return loss.detach() * (tokens / self.ranks)

    def _halved(self, part: Batch, *, last: bool) -> bool:
        """Bound micro-batches by half of ``part``; False where that is no way out: at a single row, and where other
        processes may wait in the middle of this gradient."""
        rows, longest = part["input_ids"].shape
        if rows == 1 or self.sharded or (last and self.ranks > 1):
            return False
        if self.most_slots is None:
            self.say(
                f"out of memory in a micro-batch of {rows} x {longest} tokens: from here on it is split, which leaves "
                "gradients as they are (--max_tokens_per_micro_batch)"
            )
        self.most_slots = (rows + 1) // 2 * longest
        return True
