"""Laws of the plans by tokens: what a step holds, and who computes it."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm_data.budget import LOOKAHEAD, WINDOW, BudgetPlan, TokenBudget, plan_budget
from slm_data.errors import DataError
from slm_data.packing import PACKINGS, Packing, RowPlan, plan_rows
from slm_data.sample.corpus import stories

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


def test_the_large_cases_are_larger_than_what_is_sorted_or_looked_at_together() -> None:
    for case in (SORTED_APART, SINGLE_ROWS):
        assert len(case.plan().micro_first) > 4 * LOOKAHEAD
    assert len(SORTED_APART.predictable) > WINDOW


@given(drawn(whole=True))
@example(SORTED_APART._replace(ranks=3))
@example(SINGLE_ROWS._replace(epochs=2))
@example(Case([1, 1, 2, 1], 4, "none", tokens=9, room=0, most=None))
@example(Case([1] * 9 + [6], 3, "best_fit", tokens=2, room=3, most=None, epochs=2))
def test_an_epoch_takes_each_row_with_something_to_predict_exactly_once(case: Case) -> None:
    plan = case.plan()
    epochs = by_epoch(plan)
    assert list(epochs) == list(range(int(case.epochs)))
    for steps in epochs.values():
        assert sorted(row for batches in steps for row in in_turn(batches)) == case.predictable
    assert plan.unpredictable == len(case.rows) - len(case.predictable)


@given(drawn(several=False))
@example(SORTED_APART)
@example(SINGLE_ROWS)
@example(Case([3] * 8, 8, "none", tokens=4, room=9, most=None))
def test_a_step_ends_with_the_row_that_reaches_the_budget(case: Case) -> None:
    predicted = case.predicted
    for _, _, batches in steps_of(case.plan()):
        *before, _last = in_turn(batches)
        assert sum(predicted[row] for row in before) < case.tokens


@given(drawn(several=False))
@example(SORTED_APART)
@example(SINGLE_ROWS)
def test_all_steps_of_an_epoch_but_the_last_reach_the_budget(case: Case) -> None:
    plan = case.plan()
    for epoch in set(plan.epoch.tolist()):
        assert (plan.tokens[plan.epoch == epoch][:-1] >= case.tokens).all()


@given(drawn(several=False))
@example(SORTED_APART)
@example(Case([3], 4, "none", tokens=9, room=0, most=None))
def test_full_steps_go_over_the_budget_by_less_than_one_row(case: Case) -> None:
    plan, largest = case.plan(), max(case.predicted)
    beyond = [tokens - case.tokens for _, tokens, _ in steps_of(plan) if tokens >= case.tokens]
    assert all(over < largest for over in beyond)
    mean, most = plan.overshoot
    assert (mean, most) == (pytest.approx(sum(beyond) / len(beyond)) if beyond else 0, max(beyond, default=0))
    assert plan.full.tolist() == [case.tokens + over for over in beyond]


@given(drawn())
@example(SORTED_APART)
@example(SORTED_APART._replace(ranks=4, most=5))
def test_micro_batches_keep_to_the_slots_and_rows_that_they_may_hold(case: Case) -> None:
    plan, budget, lengths = case.plan(), case.budget, case.row_lengths
    for step, (_, _, planned) in enumerate(steps_of(plan)):
        shared = [batch for share in shares_of(plan, step, case.ranks) for batch in share]
        for batch in [*planned, *shared]:
            sizes = [lengths[row] for row in batch]
            assert 0 < len(sizes) <= (budget.rows or len(lengths))
            assert len(sizes) * sizes[0] <= budget.slots
            assert sizes == sorted(sizes, reverse=True)


@given(drawn())
@example(SORTED_APART)
def test_a_plan_counts_what_its_rows_hold(case: Case) -> None:
    plan, lengths, predicted = case.plan(), case.row_lengths, case.predicted
    steps = steps_of(plan)
    batches = [batch for _, _, batches in steps for batch in batches]
    assert plan.tokens.tolist() == [sum(predicted[row] for row in in_turn(batches)) for _, _, batches in steps]
    assert plan.tokens_before.tolist() == [int(plan.tokens[:step].sum()) for step in range(len(plan) + 1)]
    held = sum(lengths[row] for row in in_turn(batches))
    assert plan.slots == sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert plan.utilisation == pytest.approx(held / plan.slots)
    assert sum(plan.real_tokens(plan.micro_batches(step)) for step in range(len(plan))) == held


@given(drawn(whole=True))
def test_progress_grows_with_each_step_and_is_whole_where_an_epoch_ends(case: Case) -> None:
    plan = case.plan()
    progress = [plan.progress(step) for step in range(len(plan))]
    assert all(0 < before < after for before, after in pairwise(progress))
    ends = [step for step in range(len(plan)) if step + 1 == len(plan) or plan.epoch[step] < plan.epoch[step + 1]]
    assert [progress[step] for step in ends] == list(range(1, int(case.epochs) + 1))


@given(drawn())
def test_the_same_arguments_give_the_same_plan(case: Case) -> None:
    assert steps_of(case.plan()) == steps_of(case.plan())


@pytest.mark.parametrize("packing", PACKINGS)
def test_another_seed_and_another_epoch_take_other_steps(packing: Packing) -> None:
    case = of_many_rows(packing, epochs=2)
    found = [by_epoch(case.plan(seed=seed))[epoch] for seed in (0, 1) for epoch in (0, 1)]
    together = [{frozenset(in_turn(batches)) for batches in steps} for steps in found]
    for at, steps in enumerate(together):
        assert all(len(steps & other) < len(steps) / 10 for other in together[at + 1 :])


@given(drawn(), st.floats(0, 2))
@example(SORTED_APART._replace(epochs=0.3), 0.9)
def test_more_epochs_leave_the_steps_before_as_they_are(case: Case, more: float) -> None:
    fewer, longer = steps_of(case.plan()), steps_of(case.plan(epochs=case.epochs + more))
    assert longer[: len(fewer)] == fewer


@given(drawn(), st.integers(1, 40))
@example(SORTED_APART, 7)
def test_a_number_of_steps_cuts_the_plan_short_or_goes_on_to_further_epochs(case: Case, steps: int) -> None:
    cut, whole = steps_of(case.plan(max_steps=steps)), steps_of(case.plan())
    assert len(cut) == steps
    assert cut[: len(whole)] == whole[:steps]


@given(drawn(), st.floats(0.01, 0.99))
def test_a_part_of_an_epoch_is_that_part_of_its_steps(case: Case, part: float) -> None:
    whole, taken = len(case.plan(epochs=1)), len(case.plan(epochs=part))
    assert taken == 1 or abs(taken - part * whole) <= 0.5


@given(drawn())
@example(SORTED_APART._replace(ranks=5))
@example(SINGLE_ROWS._replace(ranks=4))
def test_shares_of_a_step_hold_each_of_its_rows_once(case: Case) -> None:
    plan = case.plan()
    for step, (_, _, planned) in enumerate(steps_of(plan)):
        shared = [batch for share in shares_of(plan, step, case.ranks) for batch in share]
        assert sorted(in_turn(shared)) == sorted(in_turn(planned))
        runs = {row: (at, place) for at, batch in enumerate(planned) for place, row in enumerate(batch)}
        for batch in shared:  # cut, never mixed
            at, place = runs[batch[0]]
            assert planned[at][place : place + len(batch)] == batch


@given(drawn())
@example(SORTED_APART._replace(ranks=5))
@example(SINGLE_ROWS._replace(ranks=4, tokens=30))
def test_shares_are_as_many_micro_batches_unless_single_rows_do_not_go_round(case: Case) -> None:
    plan = case.plan()
    for step in range(len(plan)):
        shares = shares_of(plan, step, case.ranks)
        counts = [len(share) for share in shares]
        assert min(counts) >= 1
        assert max(counts) == plan.most_in_a_share(step, case.ranks)
        if max(counts) > min(counts):
            assert max(counts) - min(counts) == 1
            assert all(len(batch) == 1 for share in shares for batch in share)


@given(drawn())
def test_a_share_starts_with_its_largest_micro_batch(case: Case) -> None:
    plan, lengths = case.plan(), case.row_lengths
    for step in range(len(plan)):
        for share in shares_of(plan, step, case.ranks):
            slots = [len(batch) * lengths[batch[0]] for batch in share]
            assert slots == sorted(slots, reverse=True)


@given(drawn(whole=True, several=False))
@example(SORTED_APART)
def test_steps_do_not_depend_on_the_number_of_processes_where_each_has_a_row(case: Case) -> None:
    alone = case.plan()
    fewest = min(len(in_turn(batches)) for _, _, batches in steps_of(alone))
    for ranks in range(1, min(5, fewest) + 1):
        assert steps_of(case.plan(ranks=ranks)) == steps_of(alone)


@given(drawn(whole=True))
@example(SINGLE_ROWS._replace(ranks=3))
def test_steps_with_too_few_rows_for_the_processes_are_joined_whole(case: Case) -> None:
    alone, joined = case.plan(ranks=1), case.plan()
    assert joined.rows.tolist() == alone.rows.tolist()
    assert joined.micro_first.tolist() == alone.micro_first.tolist()
    assert set(joined.step_first.tolist()) <= set(alone.step_first.tolist())
    assert all(len(in_turn(batches)) >= case.ranks for _, _, batches in steps_of(joined))


@given(drawn())
@example(SORTED_APART)
def test_the_first_step_of_an_epoch_has_its_largest_micro_batch_where_the_budget_holds_that(case: Case) -> None:
    case = case._replace(tokens=case.tokens + case.budget.slots)
    lengths = case.row_lengths
    for steps in by_epoch(case.plan()).values():
        largest = [max(len(batch) * lengths[batch[0]] for batch in batches) for batches in steps]
        assert largest[0] == max(largest)


@pytest.fixture(scope="module")
def story_lengths() -> list[int]:
    return [len(text.split()) * 4 // 3 for text in stories(1500, seed=1)]


@pytest.mark.parametrize("packing", PACKINGS)
def test_steps_over_the_sample_stories_are_alike_and_hold_little_padding(
    packing: Packing, story_lengths: list[int]
) -> None:
    plan = plan_budget(plan_rows(story_lengths, 256, packing), TokenBudget(4096, 2048))
    assert plan.utilisation >= 0.93
    assert len(plan.full) > 50
    assert plan.full.std() / plan.full.mean() <= 0.02


def test_steps_are_closed_by_rows_that_meet_the_budget_well(story_lengths: list[int]) -> None:
    """Rows as they come would go over by half a row or more on average."""
    rows = plan_rows(story_lengths, 256, "none")
    mean, _ = plan_budget(rows, TokenBudget(4096, 2048)).overshoot
    assert mean < rows.predicted_tokens / len(rows) / 4


def test_a_micro_batch_that_does_not_hold_the_longest_row_is_refused() -> None:
    rows = plan_rows([5, 9, 3], 16, "none")
    with pytest.raises(DataError, match=r"^--max_tokens_per_micro_batch 8 does not .* 9 tokens; give 9 or more"):
        plan_budget(rows, TokenBudget(100, 8))
    assert len(plan_budget(rows, TokenBudget(100, 9))) == 1


@pytest.mark.parametrize(
    ("numbers", "sentence"),
    [
        ((0, 8), "--target_tokens_per_step 0 must be at least 1"),
        ((8, 0), "--max_tokens_per_micro_batch 0 must be at least 1"),
        ((8, 8, 0), "--per_device_train_batch_size 0 must be at least 1"),
    ],
)
def test_a_budget_of_nothing_is_refused(numbers: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(DataError, match=f"^{sentence}$"):
        TokenBudget(*numbers)


@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_with_nothing_to_predict_are_refused(packing: Packing) -> None:
    for lengths in ([], [1]):
        with pytest.raises(DataError, match=r"^0 rows with something to predict are too few .*; give more text$"):
            plan_budget(plan_rows(lengths, 8, packing), TokenBudget(10, 8))


def test_fewer_rows_than_processes_are_refused() -> None:
    rows = plan_rows([4, 4, 1], 8, "none")
    with pytest.raises(DataError, match=r"^2 rows with something to predict are too few for 3 processes"):
        plan_budget(rows, TokenBudget(10, 8), ranks=3)


@pytest.mark.parametrize("epochs", [0, -1.0])
def test_no_epochs_are_refused_unless_steps_are_given(epochs: float) -> None:
    rows = plan_rows([4, 4], 8, "none")
    with pytest.raises(DataError, match=rf"^--num_train_epochs {epochs} must be above 0$"):
        plan_budget(rows, TokenBudget(10, 8), epochs=epochs)
    assert len(plan_budget(rows, TokenBudget(10, 8), epochs=epochs, max_steps=3)) == 3
