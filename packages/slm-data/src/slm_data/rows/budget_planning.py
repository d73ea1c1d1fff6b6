"""``plan_budget``: distribute rows over micro-batches and steps by a token budget.

A step ends with the row that reaches the budget of predicted tokens, so it exceeds the budget by less than one row. The
rows left at the end of an epoch form a step below the budget. Rows of similar length share a micro-batch, to minimise
padding; micro-batches are shuffled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import numpy as np

from slm_data.errors import DataError
from slm_data.rows.array_types import Ints
from slm_data.rows.budget import BudgetPlan, TokenBudget
from slm_data.rows.packing import RowPlan

# Rows sorted by length together. Sorting all rows would put the same ones into a micro-batch in every epoch.
SORT_WINDOW = 2048
# Micro-batches that may complete a step. With 32, steps of 4,096 tokens exceed the budget by 10 tokens on average for
# log-normal lengths at block size 256.
LOOKAHEAD = 32

MicroBatch = list[int]  # row numbers, the longest row first


def plan_budget(
    rows: RowPlan, budget: TokenBudget, *, seed: int = 0, epochs: float = 1.0, max_steps: int = -1, ranks: int = 1
) -> BudgetPlan:
    """Plan a run over ``rows``.

    An epoch is a pure function of the rows, the budget, the seed and its number: more epochs leave the earlier ones
    unchanged.

    Args:
        rows: The rows to distribute; those without a token to predict are left out.
        budget: The size of steps and micro-batches.
        seed: Order of the rows.
        epochs: Passes over the rows; a fraction of an epoch is that fraction of its steps.
        max_steps: Replaces ``epochs`` if positive.
        ranks: Number of processes. A step with fewer rows is merged with the next (the last with the one before).

    Raises:
        DataError: A micro-batch is smaller than the longest row, or there are too few rows.
    """
    lengths, predicted = rows.row_lengths, rows.predicted
    usable = np.flatnonzero(predicted > 0)
    _check(lengths, len(usable), budget, ranks)
    steps: list[list[MicroBatch]] = []
    epoch_of_step: list[int] = []
    epoch_steps: list[int] = []
    for epoch in range(_max_epochs(epochs, max_steps)):
        planned = _plan_epoch(usable, lengths, predicted, budget, (seed, epoch), ranks)
        epoch_steps.append(len(planned))
        if max_steps <= 0:
            planned = planned[: max(1, round(min(1.0, epochs - epoch) * len(planned)))]
        steps += planned
        epoch_of_step += [epoch] * len(planned)
        if 0 < max_steps <= len(steps):
            steps, epoch_of_step = steps[:max_steps], epoch_of_step[:max_steps]
            break
    return _flatten(steps, epoch_of_step, epoch_steps, budget, lengths, predicted)


def _check(lengths: Ints, usable_rows: int, budget: TokenBudget, ranks: int) -> None:
    if usable_rows < ranks:
        processes = "a run" if ranks == 1 else f"{ranks} processes"
        raise DataError(f"{usable_rows} rows with a token to predict are too few for {processes}; use more text")
    if budget.slots < (longest := int(lengths.max())):
        raise DataError(
            f"--max_tokens_per_micro_batch {budget.slots} does not hold the longest row of {longest} tokens; use "
            f"{longest} or more, or a smaller --block_size"
        )


def _max_epochs(epochs: float, max_steps: int) -> int:
    if max_steps > 0:
        return max_steps  # every epoch has at least one step
    if epochs <= 0:
        raise DataError(f"--num_train_epochs {epochs} must be above 0")
    return int(np.ceil(round(epochs, 6)))  # rounded, so that 0.1 + 0.2 + 0.7 is one epoch and not two


def _plan_epoch(
    usable: Ints, lengths: Ints, predicted: Ints, budget: TokenBudget, seed: tuple[int, int], ranks: int
) -> list[list[MicroBatch]]:
    rng = np.random.default_rng(seed)
    batches = list(_batches_by_length(rng.permutation(usable), lengths, budget))
    order = rng.permutation(len(batches)).tolist()
    # The largest micro-batch comes first, so that a run that would exceed the memory fails in its first step.
    largest = max(order, key=lambda index: len(batches[index]) * lengths[batches[index][0]])
    order.insert(0, order.pop(order.index(largest)))
    steps = _fill_steps((batches[index] for index in order), predicted.tolist(), budget.tokens)
    return _merge_small_steps(list(steps), ranks)


def _batches_by_length(order: Ints, lengths: Ints, budget: TokenBudget) -> Iterator[MicroBatch]:
    """Yield micro-batches of rows of similar length, as large as the budget allows."""
    for window_start in range(0, len(order), SORT_WINDOW):
        window = order[window_start : window_start + SORT_WINDOW]
        window = window[np.argsort(-lengths[window], kind="stable")]
        start = 0
        while start < len(window):
            max_rows = budget.slots // int(lengths[window[start]])
            end = start + (max_rows if budget.rows is None else min(max_rows, budget.rows))
            yield window[start:end].tolist()
            start = end


def _fill_steps(batches: Iterator[MicroBatch], predicted: Sequence[int], budget: int) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of each step.

    A step takes whole micro-batches until the next one would reach the budget. It ends with the first rows of one of
    the next LOOKAHEAD micro-batches: of the one with which it exceeds the budget least. The other rows of that
    micro-batch stay in the queue.
    """
    candidates = [(batch, _cumulative_tokens(batch, predicted)) for batch in islice(batches, LOOKAHEAD)]
    step: list[MicroBatch] = []
    needed = budget
    while candidates:
        batch, sums = candidates[0]
        if sums[-1] < needed:
            del candidates[0]
            step.append(batch)
            needed -= sums[-1]
        else:
            best = min(range(len(candidates)), key=lambda index: _excess(candidates[index][1], needed))
            batch, sums = candidates.pop(best)
            count = bisect_left(sums, needed) + 1
            yield [*step, batch[:count]]
            step, needed = [], budget
            if remaining := batch[count:]:
                candidates.insert(best, (remaining, _cumulative_tokens(remaining, predicted)))
        refill = islice(batches, LOOKAHEAD - len(candidates))
        candidates += [(batch, _cumulative_tokens(batch, predicted)) for batch in refill]
    if step:
        yield step


def _cumulative_tokens(batch: MicroBatch, predicted: Sequence[int]) -> list[int]:
    return list(accumulate(predicted[row] for row in batch))


def _excess(sums: list[int], needed: int) -> float:
    """Return the tokens beyond ``needed`` with the fewest rows that reach it; infinity if all rows do not reach it."""
    index = bisect_left(sums, needed)
    return sums[index] - needed if index < len(sums) else float("inf")


def _merge_small_steps(steps: list[list[MicroBatch]], ranks: int) -> list[list[MicroBatch]]:
    """Merge steps until each has at least one row per process."""
    merged: list[list[MicroBatch]] = []
    pending: list[MicroBatch] = []
    for step in steps:
        pending = pending + step
        if sum(map(len, pending)) >= ranks:
            merged.append(pending)
            pending = []
    if pending:
        merged[-1] = merged[-1] + pending
    return merged


def _flatten(
    steps: list[list[MicroBatch]],
    epoch_of_step: list[int],
    epoch_steps: list[int],
    budget: TokenBudget,
    lengths: Ints,
    predicted: Ints,
) -> BudgetPlan:
    batches = [batch for step in steps for batch in step]
    return BudgetPlan(
        budget=budget,
        rows=np.array([row for batch in batches for row in batch], np.int64),
        micro_first=np.cumsum([0, *map(len, batches)], dtype=np.int64),
        step_first=np.cumsum([0, *map(len, steps)], dtype=np.int64),
        epoch=np.array(epoch_of_step, np.int64),
        tokens=np.array([sum(int(predicted[row]) for batch in step for row in batch) for step in steps], np.int64),
        epoch_steps=np.array(epoch_steps, np.int64),
        lengths=lengths,
        unpredictable=int((predicted == 0).sum()),
    )
