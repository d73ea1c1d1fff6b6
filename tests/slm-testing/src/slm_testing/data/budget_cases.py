"""Cases for the tests of token-budget plans: random ones, and two with more rows than one sort window."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from slm_data import PACKINGS, BudgetPlan, Packing, RowPlan, TokenBudget, plan_budget, plan_rows

Batches = list[list[int]]

MANY_ROWS = 2548  # more than the 2048 rows that plan_budget sorts together


class Case(NamedTuple):
    """The arguments of a plan. ``extra_slots``: slots of a micro-batch beyond those of the longest row."""

    lengths: list[int]
    block: int
    packing: Packing
    tokens: int
    extra_slots: int
    max_rows: int | None
    seed: int = 0
    epochs: float = 1
    ranks: int = 1

    @property
    def rows(self) -> RowPlan:
        return plan_rows(self.lengths, self.block, self.packing)

    @property
    def row_lengths(self) -> list[int]:
        rows = self.rows
        return [sum(rows.length[start:end].tolist()) for start, end in pairwise(rows.first.tolist())]

    @property
    def predicted(self) -> list[int]:
        """Tokens with a loss of each row: all but the first of each segment."""
        segments = [end - start for start, end in pairwise(self.rows.first.tolist())]
        return [tokens - parts for tokens, parts in zip(self.row_lengths, segments, strict=True)]

    @property
    def predictable(self) -> list[int]:
        return [row for row, tokens in enumerate(self.predicted) if tokens]

    @property
    def budget(self) -> TokenBudget:
        return TokenBudget(self.tokens, max(self.row_lengths) + self.extra_slots, self.max_rows)

    def plan(self, **changes: Any) -> BudgetPlan:
        settings = {"seed": self.seed, "epochs": self.epochs, "ranks": self.ranks} | changes
        return plan_budget(self.rows, self.budget, **settings)


@st.composite
def cases(draw: st.DrawFn, whole_epochs: bool = False, many_ranks: bool = True) -> Case:
    """Draw a random case. ``whole_epochs``: no fractions of an epoch. ``many_ranks``: also more than one process."""
    case = Case(
        draw(st.lists(st.integers(1, 40), min_size=1, max_size=60).filter(lambda lengths: max(lengths) > 1)),
        block=draw(st.integers(2, 30)),
        packing=draw(st.sampled_from(PACKINGS)),
        tokens=draw(st.integers(1, 150)),
        extra_slots=draw(st.integers(0, 120)),
        max_rows=draw(st.none() | st.integers(1, 6)),
        seed=draw(st.integers(0, 9)),
        epochs=draw(st.integers(1, 3) if whole_epochs else st.floats(0.1, 3)),
    )
    return case._replace(ranks=draw(st.integers(1, min(5, len(case.predictable))))) if many_ranks else case


def case_of_many_rows(packing: Packing, **changes: Any) -> Case:
    """Return a case with more rows than one sort window and more micro-batches than the lookahead."""
    lengths = np.random.default_rng(0).lognormal(2, 0.8, MANY_ROWS).astype(int) + 1
    return Case(lengths.tolist(), block=24, packing=packing, tokens=100, extra_slots=40, max_rows=None)._replace(
        **changes
    )


SEVERAL_WINDOWS = case_of_many_rows("none")
SINGLE_ROW_BATCHES = case_of_many_rows("best_fit", tokens=1, extra_slots=0, max_rows=1)


def steps_of(plan: BudgetPlan) -> list[tuple[int, int, Batches]]:
    """Epoch, tokens and micro-batches of each step."""
    batches = [[batch.tolist() for batch in plan.micro_batches(step)] for step in range(len(plan))]
    return list(zip(plan.epoch.tolist(), plan.tokens.tolist(), batches, strict=True))


def rows_in(batches: Batches) -> list[int]:
    """Return all rows of some micro-batches, in order."""
    return [row for batch in batches for row in batch]


def shares_of(plan: BudgetPlan, step: int, ranks: int) -> list[Batches]:
    return [[batch.tolist() for batch in plan.share(step, rank, ranks)] for rank in range(ranks)]


def steps_by_epoch(plan: BudgetPlan) -> dict[int, list[Batches]]:
    by_epoch: dict[int, list[Batches]] = {}
    for epoch, _, batches in steps_of(plan):
        by_epoch.setdefault(epoch, []).append(batches)
    return by_epoch
