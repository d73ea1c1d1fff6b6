"""Plans to hold laws against: drawn ones, and two with more rows than are sorted together."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from slm_data.budget import WINDOW, BudgetPlan, TokenBudget, plan_budget
from slm_data.packing import PACKINGS, Packing, RowPlan, plan_rows

Batches = list[list[int]]


class Case(NamedTuple):
    """What a plan is made of. ``room``: slots of a micro-batch beyond the longest row."""

    lengths: list[int]
    block: int
    packing: Packing
    tokens: int
    room: int
    most: int | None
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
        return TokenBudget(self.tokens, max(self.row_lengths) + self.room, self.most)

    def plan(self, **changes: Any) -> BudgetPlan:
        settings = {"seed": self.seed, "epochs": self.epochs, "ranks": self.ranks} | changes
        return plan_budget(self.rows, self.budget, **settings)


@st.composite
def drawn(draw: st.DrawFn, whole: bool = False, several: bool = True) -> Case:
    """``whole``: no parts of epochs. ``several``: more than one process too."""
    case = Case(
        draw(st.lists(st.integers(1, 40), min_size=1, max_size=60).filter(lambda lengths: max(lengths) > 1)),
        block=draw(st.integers(2, 30)),
        packing=draw(st.sampled_from(PACKINGS)),
        tokens=draw(st.integers(1, 150)),
        room=draw(st.integers(0, 120)),
        most=draw(st.none() | st.integers(1, 6)),
        seed=draw(st.integers(0, 9)),
        epochs=draw(st.integers(1, 3) if whole else st.floats(0.1, 3)),
    )
    return case._replace(ranks=draw(st.integers(1, min(5, len(case.predictable))))) if several else case


def of_many_rows(packing: Packing, **changes: Any) -> Case:
    """More rows than are sorted together, and more micro-batches than are looked at together."""
    lengths = np.random.default_rng(0).lognormal(2, 0.8, WINDOW + 500).astype(int) + 1
    return Case(lengths.tolist(), block=24, packing=packing, tokens=100, room=40, most=None)._replace(**changes)


SORTED_APART, SINGLE_ROWS = of_many_rows("none"), of_many_rows("best_fit", tokens=1, room=0, most=1)


def steps_of(plan: BudgetPlan) -> list[tuple[int, int, Batches]]:
    """Epoch, tokens and micro-batches of each step."""
    batches = [[batch.tolist() for batch in plan.micro_batches(step)] for step in range(len(plan))]
    return list(zip(plan.epoch.tolist(), plan.tokens.tolist(), batches, strict=True))


def in_turn(batches: Batches) -> list[int]:
    return [row for batch in batches for row in batch]


def shares_of(plan: BudgetPlan, step: int, ranks: int) -> list[Batches]:
    return [[batch.tolist() for batch in plan.share(step, rank, ranks)] for rank in range(ranks)]


def by_epoch(plan: BudgetPlan) -> dict[int, list[Batches]]:
    found: dict[int, list[Batches]] = {}
    for epoch, _, batches in steps_of(plan):
        found.setdefault(epoch, []).append(batches)
    return found
