"""The micro-batches of a process, in the order of the plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from slm_data import IGNORE_INDEX, BudgetPlan, RowCollator, RowDataset

MicroBatch = dict[str, Tensor]  # input_ids, labels and, if packed, position_ids, each [rows, tokens]


class Shares(Sampler[list[int]]):
    """The rows of each micro-batch of process ``rank``, from ``first_step`` to the end of the run."""

    def __init__(self, plan: BudgetPlan, first_step: int = 0, rank: int = 0, ranks: int = 1):
        self.plan, self.first_step, self.rank, self.ranks = plan, first_step, rank, ranks

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, len(self.plan)):
            for rows in self.plan.share(step, self.rank, self.ranks):
                yield rows.tolist()


def make_micro_batches(
    rows: RowDataset, shares: Shares, collator: RowCollator, *, workers: int = 0, pinned: bool = False
) -> Iterator[MicroBatch]:
    """Yield the micro-batches of ``shares``, collated on the CPU.

    Args:
        rows: The training rows.
        shares: The rows of each micro-batch.
        collator: Makes a batch of rows.
        workers: Processes that collate; 0 for this one.
        pinned: Whether to put batches in pinned memory, for a GPU.
    """
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_sampler=shares,
        collate_fn=collator,
        num_workers=workers,
        pin_memory=pinned,
        # DataLoader draws a seed for its workers. Taken from the global generator, it would change the random numbers
        # of training.
        generator=torch.Generator(),
    )
    return iter(loader)


def split_micro_batch(batch: MicroBatch, max_slots: int | None) -> list[MicroBatch]:
    """Split a micro-batch into parts of at most ``max_slots`` tokens, padding included, and at least one row each."""
    rows, longest = batch["input_ids"].shape
    if max_slots is None or rows * longest <= max_slots:
        return [batch]
    size = max(1, max_slots // longest)
    return [{name: value[start : start + size] for name, value in batch.items()} for start in range(0, rows, size)]


def without_loss(batch: MicroBatch) -> MicroBatch:
    """Return a copy of ``batch`` in which no token has a loss."""
    return batch | {"labels": torch.full_like(batch["labels"], IGNORE_INDEX)}


def count_predicted(batch: MicroBatch) -> int:
    """Return the number of tokens that have a loss: the first of each row is not predicted."""
    return int((batch["labels"][:, 1:] != IGNORE_INDEX).sum())
