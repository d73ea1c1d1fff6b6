"""The training rows of short trials, such as those of a learning-rate search, and their micro-batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle

import torch

from slm_data import Ints, RowDataset
from slm_train.arguments import Arguments

_JUDGED_TOKENS = 4096
_JUDGED_PART = 4  # at most a quarter of the rows


@dataclass(frozen=True)
class TrialRows:
    """Rows of a trial.

    Attributes:
        steps: The rows of each optimizer step, over all processes.
        judged: Rows on which the trials are compared. No step contains them, unless there is only one row.
    """

    steps: list[list[int]]
    judged: list[int]


def choose_trial_rows(arguments: Arguments, train: RowDataset, steps: int) -> TrialRows:
    """Choose the rows of ``steps`` optimizer steps, each as large as those of the run, and of the comparison.

    The same on every process. Few rows are used several times, as in a run of several epochs.
    """
    generator = torch.Generator().manual_seed(arguments.training.seed)
    order: list[int] = torch.randperm(len(train), generator=generator).tolist()
    lengths = train.plan.row_lengths
    judged = list(_until(lengths, order[: max(1, len(order) // _JUDGED_PART)], _JUDGED_TOKENS))
    trained = cycle(order[len(judged) :] or order)
    return TrialRows([_rows_of_step(arguments, lengths, trained) for _ in range(steps)], judged)


def micro_batches(arguments: Arguments, lengths: Ints, rows: list[int]) -> list[list[int]]:
    """Divide rows into micro-batches as large as those of the run, the longest rows first."""
    limit = arguments.training.per_device_train_batch_size
    if not arguments.budget:
        return [rows[start : start + limit] for start in range(0, len(rows), limit)]
    rest, parts = sorted(rows, key=lambda row: -lengths[row]), []
    while rest:
        size = max(1, arguments.budget.micro_batch_tokens // int(lengths[rest[0]]))
        size = min(size, arguments.max_micro_batch_rows or size)
        parts.append(rest[:size])
        rest = rest[size:]
    return parts


def _rows_of_step(arguments: Arguments, lengths: Ints, rows: Iterator[int]) -> list[int]:
    training = arguments.training
    if arguments.budget:
        return list(_until(lengths, rows, arguments.budget.target_tokens_per_step))
    count = training.per_device_train_batch_size * training.gradient_accumulation_steps * training.world_size
    return [next(rows) for _ in range(count)]


def _until(lengths: Ints, rows: Iterable[int], tokens: int) -> Iterator[int]:
    """Yield rows until they have ``tokens`` tokens, at least one."""
    total = 0
    for row in rows:
        yield row
        total += int(lengths[row])
        if total >= tokens:
            return
