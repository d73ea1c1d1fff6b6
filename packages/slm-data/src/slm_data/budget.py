"""Rows to micro-batches to optimizer steps, by tokens: a whole run laid out before it starts. Plans, no tensors.

A step ends with the row that reaches the budget of predicted tokens, so it goes over by less than one row. What
is left at the end of an epoch is a step of its own, short of the budget. Rows of like length share a micro-batch,
so that padding is rare; micro-batches are shuffled, and a step is closed by the rows, of a few micro-batches that
come next, which meet the budget best. Every process holds the same plan and takes its share of each step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

import numpy as np

from slm_data.errors import DataError
from slm_data.packing import Ints, RowPlan

WINDOW = 2048  # rows that are sorted by length together; epochs differ in who shares a micro-batch
LOOKAHEAD = 32  # micro-batches that may close a step

MicroBatch = list[int]  # numbers of rows, the longest first


@dataclass(frozen=True)
class TokenBudget:
    """``tokens``: predicted tokens that a step waits for. ``slots``: the most that a micro-batch may hold, padding
    counted. ``rows``: the most rows of one, or None."""

    tokens: int
    slots: int
    rows: int | None = None

    def __post_init__(self) -> None:
        for flag, value in (("target_tokens_per_step", self.tokens), ("max_tokens_per_micro_batch", self.slots)):
            if value < 1:
                raise DataError(f"--{flag} {value} must be at least 1")
        if self.rows is not None and self.rows < 1:
            raise DataError(f"--per_device_train_batch_size {self.rows} must be at least 1")


@dataclass(frozen=True)
class BudgetPlan:
    """Step ``s`` is the micro-batches ``step_first[s]`` to ``step_first[s + 1]``; micro-batch ``m`` the rows
    ``rows[micro_first[m]]`` to ``rows[micro_first[m + 1]]``."""

    budget: TokenBudget
    rows: Ints  # [rows, once an epoch]
    micro_first: Ints  # [micro-batches + 1]
    step_first: Ints  # [steps + 1]
    epoch: Ints  # [steps]
    tokens: Ints  # [steps], predicted
    epoch_steps: Ints  # [epochs], of each whole epoch, taken or not
    lengths: Ints  # [rows of the RowPlan], all tokens
    unpredictable: int  # rows without a token to predict, which no step holds

    def __len__(self) -> int:
        return len(self.tokens)

    def micro_batches(self, step: int) -> list[Ints]:
        """The rows of each micro-batch of ``step``, the longest first."""
        bounds = self.micro_first[self.step_first[step] : self.step_first[step + 1] + 1]
        return [self.rows[start:end] for start, end in pairwise(bounds.tolist())]

    def share(self, step: int, rank: int, ranks: int) -> list[Ints]:
        """The micro-batches of ``step`` that process ``rank`` of ``ranks`` computes, the largest first. Each process
        has at least one, and as many as any other unless single rows do not go round."""
        if ranks == 1:
            return sorted(self.micro_batches(step), key=self._slots, reverse=True)
        parts = self._parts(step, ranks)
        shares: list[list[Ints]] = [[] for _ in range(ranks)]
        for at in range(0, len(parts), ranks):
            by_load = sorted(range(ranks), key=lambda held: sum(map(self._slots, shares[held])))
            for held, part in zip(by_load, parts[at : at + ranks], strict=False):
                shares[held].append(part)
        return shares[rank]

    def most_in_a_share(self, step: int, ranks: int) -> int:
        """The most micro-batches that a process has in ``step``."""
        return -(-len(self._parts(step, ranks)) // ranks)

    def _parts(self, step: int, ranks: int) -> list[Ints]:
        """Micro-batches, the largest halved until they can be dealt out evenly, the largest first."""
        parts = self.micro_batches(step)
        while len(parts) % ranks:
            parts.sort(key=lambda part: (len(part) > 1, self._slots(part)))
            if len(parts[-1]) == 1:
                break
            largest = parts.pop()
            half = (len(largest) + 1) // 2
            parts += [largest[:half], largest[half:]]
        return sorted(parts, key=self._slots, reverse=True)

    def _slots(self, part: Ints) -> int:
        return len(part) * int(self.lengths[part[0]])

    @property
    def tokens_before(self) -> Ints:
        """Predicted tokens before each step and after the last, ``[steps + 1]``."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.tokens)])

    def real_tokens(self, share: Sequence[Ints]) -> int:
        """Tokens of some micro-batches, padding left out."""
        return sum(int(self.lengths[part].sum()) for part in share)

    def progress(self, step: int) -> float:
        """Epochs done once ``step`` is taken."""
        epoch = int(self.epoch[step])
        first = int(np.searchsorted(self.epoch, epoch))
        return epoch + (step + 1 - first) / int(self.epoch_steps[epoch])

    @property
    def full(self) -> Ints:
        """Predicted tokens of the steps that reached the budget."""
        return self.tokens[self.tokens >= self.budget.tokens]

    @property
    def overshoot(self) -> tuple[float, int]:
        """Mean and maximum of what steps hold beyond the budget."""
        beyond = self.full - self.budget.tokens
        return (float(beyond.mean()), int(beyond.max())) if len(beyond) else (0.0, 0)

    @property
    def slots(self) -> int:
        """Places of tokens in all micro-batches, padding counted."""
        longest = self.lengths[self.rows[self.micro_first[:-1]]]
        return int((longest * np.diff(self.micro_first)).sum())

    @property
    def utilisation(self) -> float:
        """Tokens for each slot."""
        return int(self.lengths[self.rows].sum()) / max(1, self.slots)


def plan_budget(
    rows: RowPlan, budget: TokenBudget, *, seed: int = 0, epochs: float = 1.0, max_steps: int = -1, ranks: int = 1
) -> BudgetPlan:
    """Lay out ``epochs`` passes over ``rows``, or ``max_steps`` steps where that is positive.

    An epoch is a pure function of the rows, the budget, the seed and its number: more epochs leave those before
    them as they are. With several processes, a step that has fewer rows than there are ``ranks`` is joined to the
    next (the last one to the one before).
    Raises DataError for a micro-batch that does not hold the longest row, and for too few rows.
    """
    lengths = rows.row_lengths
    tokens = lengths - np.diff(rows.first)
    used = np.flatnonzero(tokens > 0)
    if len(used) < ranks:
        processes = "a run" if ranks == 1 else f"{ranks} processes"
        raise DataError(f"{len(used)} rows with something to predict are too few for {processes}; give more text")
    if budget.slots < (longest := int(lengths.max())):
        raise DataError(
            f"--max_tokens_per_micro_batch {budget.slots} does not hold the longest row of {longest} tokens; give "
            f"{longest} or more, or a smaller --block_size"
        )
    steps: list[list[MicroBatch]] = []
    epoch_of: list[int] = []
    epoch_steps: list[int] = []
    for epoch in range(_epochs_at_most(epochs, max_steps)):
        found = _epoch(used, lengths, tokens, budget, (seed, epoch), ranks)
        epoch_steps.append(len(found))
        if max_steps <= 0:
            found = found[: max(1, round(min(1.0, epochs - epoch) * len(found)))]
        steps += found
        epoch_of += [epoch] * len(found)
        if 0 < max_steps <= len(steps):
            steps, epoch_of = steps[:max_steps], epoch_of[:max_steps]
            break
    return _flat(steps, epoch_of, epoch_steps, budget, lengths, tokens)


def _epochs_at_most(epochs: float, max_steps: int) -> int:
    if max_steps > 0:
        return max_steps  # each epoch has a step
    if epochs <= 0:
        raise DataError(f"--num_train_epochs {epochs} must be above 0")
    return int(np.ceil(round(epochs, 6)))  # the noise of floating point is no part of an epoch


def _epoch(
    used: Ints, lengths: Ints, tokens: Ints, budget: TokenBudget, seed: tuple[int, int], ranks: int
) -> list[list[MicroBatch]]:
    rng = np.random.default_rng(seed)
    batches = list(_by_length(rng.permutation(used), lengths, budget))
    order = rng.permutation(len(batches)).tolist()
    largest = max(order, key=lambda at: len(batches[at]) * lengths[batches[at][0]])
    order.insert(0, order.pop(order.index(largest)))  # a lack of memory shows early
    return _joined(list(_steps((batches[at] for at in order), tokens.tolist(), budget.tokens)), ranks)


def _by_length(order: Ints, lengths: Ints, budget: TokenBudget) -> Iterator[MicroBatch]:
    """Micro-batches of rows of like length, as large as the budget lets them be."""
    for at in range(0, len(order), WINDOW):
        window = order[at : at + WINDOW]
        window = window[np.argsort(-lengths[window], kind="stable")]
        start = 0
        while start < len(window):
            most = budget.slots // int(lengths[window[start]])
            end = start + (most if budget.rows is None else min(most, budget.rows))
            yield window[start:end].tolist()
            start = end


def _steps(batches: Iterator[MicroBatch], tokens: Sequence[int], budget: int) -> Iterator[list[MicroBatch]]:
    """Whole micro-batches until the next would reach the budget; then the first rows of the one, of those that
    come next, that goes over it least. Its other rows stay where they were."""
    pool = [(batch, _sums(batch, tokens)) for batch in islice(batches, LOOKAHEAD)]
    step: list[MicroBatch] = []
    needed = budget
    while pool:
        batch, sums = pool[0]
        if sums[-1] < needed:
            del pool[0]
            step.append(batch)
            needed -= sums[-1]
        else:
            at = min(range(len(pool)), key=lambda at: _beyond(pool[at][1], needed))
            batch, sums = pool.pop(at)
            count = bisect_left(sums, needed) + 1
            yield [*step, batch[:count]]
            step, needed = [], budget
            if rest := batch[count:]:
                pool.insert(at, (rest, _sums(rest, tokens)))
        pool += [(batch, _sums(batch, tokens)) for batch in islice(batches, LOOKAHEAD - len(pool))]
    if step:
        yield step


def _sums(batch: MicroBatch, tokens: Sequence[int]) -> list[int]:
    return list(accumulate(tokens[row] for row in batch))


def _beyond(sums: list[int], needed: int) -> float:
    at = bisect_left(sums, needed)
    return sums[at] - needed if at < len(sums) else float("inf")


def _joined(steps: list[list[MicroBatch]], ranks: int) -> list[list[MicroBatch]]:
    """Steps with a row for each process."""
    joined: list[list[MicroBatch]] = []
    open_step: list[MicroBatch] = []
    for step in steps:
        open_step = open_step + step
        if sum(map(len, open_step)) >= ranks:
            joined.append(open_step)
            open_step = []
    if open_step:
        joined[-1] = joined[-1] + open_step
    return joined


def _flat(
    steps: list[list[MicroBatch]],
    epoch_of: list[int],
    epoch_steps: list[int],
    budget: TokenBudget,
    lengths: Ints,
    tokens: Ints,
) -> BudgetPlan:
    batches = [batch for step in steps for batch in step]
    return BudgetPlan(
        budget=budget,
        rows=np.array([row for batch in batches for row in batch], np.int64),
        micro_first=np.cumsum([0, *map(len, batches)], dtype=np.int64),
        step_first=np.cumsum([0, *map(len, steps)], dtype=np.int64),
        epoch=np.array(epoch_of, np.int64),
        tokens=np.array([sum(int(tokens[row]) for batch in step for row in batch) for step in steps], np.int64),
        epoch_steps=np.array(epoch_steps, np.int64),
        lengths=lengths,
        unpredictable=int((tokens == 0).sum()),
    )
