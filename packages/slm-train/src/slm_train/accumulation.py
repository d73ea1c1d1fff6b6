"""The gradient of a step, a micro-batch at a time, in the memory that there is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn

from slm_train.memory_errors import is_out_of_memory
from slm_train.micro_batches import Batch, predicted, split, without_loss

if TYPE_CHECKING:
    from slm_train.dynamic import BudgetTrainer


class Accumulation:
    """Adds up gradients. ``most_slots`` bounds micro-batches once memory ran out, to the end of the run."""

    def __init__(self, trainer: BudgetTrainer, say: Callable[[str], None]):
        self.trainer, self.say = trainer, say
        self.accelerator, self.device = trainer.accelerator, trainer.args.device
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self.most_slots: int | None = None

    def __call__(self, model: nn.Module, step: int, batches: list[Batch]) -> Tensor:
        """Leave the gradients of ``step`` in ``model``; return the summed loss of this process's ``batches``, in nats.

        Where memory runs out, the step is done anew in smaller parts: what was added up by then may hold half of a
        micro-batch. Raises what torch raised where a single row does not fit.
        """
        while True:
            parts = [part for batch in batches for part in split(batch, self.most_slots)]
            if self.sharded:
                parts += self._parts_without_loss(step, parts)
            done, total = 0, torch.zeros((), device=self.device)
            try:
                for done, part in enumerate(parts):
                    total += self._backward(model, step, part, last=done + 1 == len(parts))
                return total
            except (RuntimeError, MemoryError) as fault:  # torch's own lack of memory is a RuntimeError
                if not is_out_of_memory(fault) or not self._halved(parts[done], last=done + 1 == len(parts)):
                    raise
            self.trainer.optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _backward(self, model: nn.Module, step: int, part: Batch, *, last: bool) -> Tensor:
        """Add the gradient of a micro-batch. Processes meet at the last one that each has."""
        trainer, ranks = self.trainer, self.trainer.ranks
        tokens = int(trainer.plan.tokens[step])
        inputs = {name: value.to(self.device, non_blocking=True) for name, value in part.items()}
        with nullcontext() if last else self.accelerator.no_sync(model):
            if trainer.model_accepts_loss_kwargs:
                loss = trainer.compute_loss(model, inputs, num_items_in_batch=torch.tensor(tokens))
            else:  # a mean over the micro-batch
                loss = trainer.compute_loss(model, inputs) * (predicted(part) * ranks / tokens)
            self.accelerator.backward(loss)
        return loss.detach() * (tokens / ranks)  # the loss counts as many times as its gradient is averaged over

    def _parts_without_loss(self, step: int, parts: list[Batch]) -> list[Batch]:
        """Sharded processes meet in every micro-batch: one that has fewer than another adds some without a loss."""
        missing = self.trainer.plan.most_in_a_share(step, self.trainer.ranks) - len(parts)
        return [without_loss(parts[-1])] * missing

    def _halved(self, part: Batch, *, last: bool) -> bool:
        """Bound micro-batches by half of ``part``; False where that is no way out: at a single row, and where other
        processes may wait in the middle of this gradient."""
        rows, longest = part["input_ids"].shape
        if rows == 1 or self.sharded or (last and self.trainer.ranks > 1):
            return False
        if self.most_slots is None:
            self.say(
                f"out of memory in a micro-batch of {rows} x {longest} tokens: from here on it is split, which leaves "
                "gradients as they are (--max_tokens_per_micro_batch)"
            )
        self.most_slots = (rows + 1) // 2 * longest
        return True
