"""The micro-batches of a process, in the order of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from slm_data import IGNORE, BudgetPlan, RowCollator

if TYPE_CHECKING:
    from slm_train.dynamic import BudgetTrainer

Batch = dict[str, Tensor]


def micro_batches(trainer: BudgetTrainer, first_step: int, multiple: int) -> Iterator[Batch]:
    """From ``first_step`` to the end of the run, collated on the CPU, pinned for a GPU. Lengths are rounded up to a
    ``multiple``."""
    args, rows = trainer.args, trainer.train_dataset
    collator: Any = trainer.data_collator
    loader: DataLoader[Batch] = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_sampler=_Shares(trainer.plan, first_step, trainer.rank, trainer.ranks),
        collate_fn=RowCollator(collator.pad_token_id, collator.packed, multiple),
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        generator=torch.Generator(),  # its seed is not to be drawn from that of the run
    )
    return iter(loader)


class _Shares(Sampler[list[int]]):
    """The rows of each micro-batch of process ``rank``."""

    def __init__(self, plan: BudgetPlan, first_step: int, rank: int, ranks: int):
        self.plan, self.first_step, self.rank, self.ranks = plan, first_step, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, len(self.plan)):
            for rows in self.plan.share(step, self.rank, self.ranks):
                yield rows.tolist()


def split(batch: Batch, most_slots: int | None) -> list[Batch]:
    """``batch`` in parts of at most ``most_slots`` places, but at least a row each."""
    rows, longest = batch["input_ids"].shape
    if most_slots is None or rows * longest <= most_slots:
        return [batch]
    size = max(1, most_slots // longest)
    return [{name: value[at : at + size] for name, value in batch.items()} for at in range(0, rows, size)]


def without_loss(batch: Batch) -> Batch:
    """The same tokens, none of them to be predicted."""
    return batch | {"labels": torch.full_like(batch["labels"], IGNORE)}


def predicted(batch: Batch) -> int:
    """Tokens with a loss."""
    return int((batch["labels"][:, 1:] != IGNORE).sum())
