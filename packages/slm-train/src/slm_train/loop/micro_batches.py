"""The micro-batches of a process, in the order of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from slm_data import IGNORE_INDEX as IGNORE
from slm_data import BudgetPlan, RowCollator, RowDataset

Batch = dict[str, Tensor]


class Shares(Sampler[list[int]]):
    """The rows of each micro-batch of process ``rank``, from ``first_step`` to the end of the run."""

    def __init__(self, plan: BudgetPlan, first_step: int = 0, rank: int = 0, ranks: int = 1):
        self.plan, self.first_step, self.rank, self.ranks = plan, first_step, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, len(self.plan)):
            for rows in self.plan.share(step, self.rank, self.ranks):
                yield rows.tolist()


def micro_batches(
    rows: RowDataset, shares: Shares, collator: RowCollator, *, workers: int = 0, pinned: bool = False
) -> Iterator[Batch]:
    """``shares`` of ``rows``, collated on the CPU by as many ``workers``, ``pinned`` for a GPU."""
    loader: DataLoader[Any] = DataLoader(  # of rows, and yields batches
        rows,
        batch_sampler=shares,
        collate_fn=collator,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # its seed is not to be drawn from that of the run
    )
    return iter(loader)


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
