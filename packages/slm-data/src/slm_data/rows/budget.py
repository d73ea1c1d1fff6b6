"""Token budgets, and plans of a whole run: rows to micro-batches to optimizer steps. No tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from slm_data.errors import DataError
from slm_data.rows.array_types import Ints


@dataclass(frozen=True)
class TokenBudget:
    """The size of steps and micro-batches. Raises DataError for a value below 1.

    Attributes:
        tokens: Predicted tokens at which a step ends.
        slots: Maximum tokens of a micro-batch, padding included.
        rows: Maximum rows of a micro-batch; None for no limit.
    """

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
    """The micro-batches and steps of a whole run. All processes have the same plan; each takes its ``share`` of a step.

    Step ``s`` consists of the micro-batches from ``step_first[s]`` up to, but not including, ``step_first[s + 1]``.
    Micro-batch ``m`` consists of the rows ``rows[micro_first[m] : micro_first[m + 1]]``.
    """

    budget: TokenBudget
    rows: Ints  # [rows], once per epoch
    micro_first: Ints  # [micro-batches + 1]
    step_first: Ints  # [steps + 1]
    epoch: Ints  # [steps]
    tokens: Ints  # [steps], predicted
    epoch_steps: Ints  # [epochs], steps of the whole epoch, even if the run ends within it
    lengths: Ints  # [rows of the RowPlan], all tokens
    unpredictable: int  # rows without a token to predict; no step contains them

    def __len__(self) -> int:
        return len(self.tokens)

    def micro_batches(self, step: int) -> list[Ints]:
        """Return the rows of each micro-batch of ``step``, the longest row first."""
        bounds = self.micro_first[self.step_first[step] : self.step_first[step + 1] + 1]
        return [self.rows[start:end] for start, end in pairwise(bounds.tolist())]

    def share(self, step: int, rank: int, ranks: int) -> list[Ints]:
        """Return the micro-batches of ``step`` for process ``rank`` of ``ranks``, the largest first.

        Every process has at least one. All have the same number, unless the step has too few rows to divide further.
        """
        if ranks == 1:
            return sorted(self.micro_batches(step), key=self._slots, reverse=True)
        parts = self._divided(step, ranks)
        shares: list[list[Ints]] = [[] for _ in range(ranks)]
        for start in range(0, len(parts), ranks):
            # The largest part goes to the process with the least work so far.
            by_load = sorted(range(ranks), key=lambda process: sum(map(self._slots, shares[process])))
            for process, part in zip(by_load, parts[start : start + ranks], strict=False):
                shares[process].append(part)
        return shares[rank]

    def max_share_size(self, step: int, ranks: int) -> int:
        """Return the largest number of micro-batches in ``step`` that one of ``ranks`` processes has."""
        return -(-len(self._divided(step, ranks)) // ranks)

    def _divided(self, step: int, ranks: int) -> list[Ints]:
        """Return the micro-batches, the largest first, halved until their number is a multiple of ``ranks``."""
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
        """Return the tokens of these micro-batches, without padding."""
        return sum(int(self.lengths[part].sum()) for part in share)

    def progress(self, step: int) -> float:
        """Return the number of epochs completed after ``step``."""
        epoch = int(self.epoch[step])
        first_step = int(np.searchsorted(self.epoch, epoch))
        return epoch + (step + 1 - first_step) / int(self.epoch_steps[epoch])

    @property
    def full(self) -> Ints:
        """Predicted tokens of the steps that reach the budget."""
        return self.tokens[self.tokens >= self.budget.tokens]

    @property
    def overshoot(self) -> tuple[float, int]:
        """Mean and maximum of the predicted tokens beyond the budget, over the steps that reach it."""
        excess = self.full - self.budget.tokens
        return (float(excess.mean()), int(excess.max())) if len(excess) else (0.0, 0)

    @property
    def slots(self) -> int:
        """Tokens of all micro-batches, padding included."""
        longest = self.lengths[self.rows[self.micro_first[:-1]]]
        return int((longest * np.diff(self.micro_first)).sum())

    @property
    def utilisation(self) -> float:
        """Tokens divided by ``slots``."""
        return int(self.lengths[self.rows].sum()) / max(1, self.slots)
