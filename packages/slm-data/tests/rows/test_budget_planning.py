"""Invariants of token-budget plans: the rows and tokens of each step."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm_data.errors import DataError
from slm_data.rows.budget import TokenBudget
from slm_data.rows.budget_planning import LOOKAHEAD, SORT_WINDOW, plan_budget
from slm_data.rows.packing import plan_rows
from slm_data.rows.packing_names import PACKINGS, Packing
from slm_data.sample.built_in import harbour_stories
from slm_testing.data.budget_cases import (
    SEVERAL_WINDOWS,
    SINGLE_ROW_BATCHES,
    Case,
    case_of_many_rows,
    cases,
    rows_in,
    shares_of,
    steps_by_epoch,
    steps_of,
)


def test_the_large_cases_exceed_the_sort_window_and_the_lookahead() -> None:
    for case in (SEVERAL_WINDOWS, SINGLE_ROW_BATCHES):
        assert len(case.plan().micro_first) > 4 * LOOKAHEAD
    assert len(SEVERAL_WINDOWS.predictable) > SORT_WINDOW


@given(cases(whole_epochs=True))
@example(SEVERAL_WINDOWS._replace(ranks=3))
@example(SINGLE_ROW_BATCHES._replace(epochs=2))
@example(Case([1, 1, 2, 1], 4, "none", tokens=9, extra_slots=0, max_rows=None))
@example(Case([1] * 9 + [6], 3, "best_fit", tokens=2, extra_slots=3, max_rows=None, epochs=2))
def test_an_epoch_contains_each_row_with_something_to_predict_exactly_once(case: Case) -> None:
    plan = case.plan()
    epochs = steps_by_epoch(plan)
    assert list(epochs) == list(range(int(case.epochs)))
    for steps in epochs.values():
        assert sorted(row for batches in steps for row in rows_in(batches)) == case.predictable
    assert plan.unpredictable == len(case.rows) - len(case.predictable)


@given(cases(many_ranks=False))
@example(SEVERAL_WINDOWS)
@example(SINGLE_ROW_BATCHES)
@example(Case([3] * 8, 8, "none", tokens=4, extra_slots=9, max_rows=None))
def test_a_step_ends_with_the_row_that_reaches_the_budget(case: Case) -> None:
    predicted = case.predicted
    for _, _, batches in steps_of(case.plan()):
        *before, _last = rows_in(batches)
        assert sum(predicted[row] for row in before) < case.tokens


@given(cases(many_ranks=False))
@example(SEVERAL_WINDOWS)
@example(SINGLE_ROW_BATCHES)
def test_all_steps_of_an_epoch_but_the_last_reach_the_budget(case: Case) -> None:
    plan = case.plan()
    for epoch in set(plan.epoch.tolist()):
        assert (plan.tokens[plan.epoch == epoch][:-1] >= case.tokens).all()


@given(cases(many_ranks=False))
@example(SEVERAL_WINDOWS)
@example(Case([3], 4, "none", tokens=9, extra_slots=0, max_rows=None))
def test_full_steps_exceed_the_budget_by_less_than_one_row(case: Case) -> None:
    plan, largest = case.plan(), max(case.predicted)
    excesses = [tokens - case.tokens for _, tokens, _ in steps_of(plan) if tokens >= case.tokens]
    assert all(excess < largest for excess in excesses)
    mean, maximum = plan.overshoot
    assert (mean, maximum) == (
        pytest.approx(sum(excesses) / len(excesses)) if excesses else 0,
        max(excesses, default=0),
    )
    assert plan.full.tolist() == [case.tokens + excess for excess in excesses]


@given(cases())
@example(SEVERAL_WINDOWS)
@example(SEVERAL_WINDOWS._replace(ranks=4, max_rows=5))
def test_micro_batches_respect_the_maximum_of_slots_and_rows(case: Case) -> None:
    plan, budget, lengths = case.plan(), case.budget, case.row_lengths
    for step, (_, _, planned) in enumerate(steps_of(plan)):
        shared = [batch for share in shares_of(plan, step, case.ranks) for batch in share]
        for batch in [*planned, *shared]:
            sizes = [lengths[row] for row in batch]
            assert 0 < len(sizes) <= (budget.rows or len(lengths))
            assert len(sizes) * sizes[0] <= budget.slots
            assert sizes == sorted(sizes, reverse=True)


@given(cases())
@example(SEVERAL_WINDOWS)
def test_the_counts_of_a_plan_are_those_of_its_rows(case: Case) -> None:
    plan, lengths, predicted = case.plan(), case.row_lengths, case.predicted
    steps = steps_of(plan)
    batches = [batch for _, _, batches in steps for batch in batches]
    assert plan.tokens.tolist() == [sum(predicted[row] for row in rows_in(batches)) for _, _, batches in steps]
    assert plan.tokens_before.tolist() == [int(plan.tokens[:step].sum()) for step in range(len(plan) + 1)]
    tokens = sum(lengths[row] for row in rows_in(batches))
    assert plan.slots == sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    assert plan.utilisation == pytest.approx(tokens / plan.slots)
    assert sum(plan.real_tokens(plan.micro_batches(step)) for step in range(len(plan))) == tokens


@given(cases(whole_epochs=True))
def test_progress_increases_with_each_step_and_is_whole_where_an_epoch_ends(case: Case) -> None:
    plan = case.plan()
    progress = [plan.progress(step) for step in range(len(plan))]
    assert all(0 < before < after for before, after in pairwise(progress))
    ends = [step for step in range(len(plan)) if step + 1 == len(plan) or plan.epoch[step] < plan.epoch[step + 1]]
    assert [progress[step] for step in ends] == list(range(1, int(case.epochs) + 1))


@given(cases())
def test_the_same_arguments_give_the_same_plan(case: Case) -> None:
    assert steps_of(case.plan()) == steps_of(case.plan())


@pytest.mark.parametrize("packing", PACKINGS)
def test_another_seed_and_another_epoch_have_other_steps(packing: Packing) -> None:
    case = case_of_many_rows(packing, epochs=2)
    epochs = [steps_by_epoch(case.plan(seed=seed))[epoch] for seed in (0, 1) for epoch in (0, 1)]
    together = [{frozenset(rows_in(batches)) for batches in steps} for steps in epochs]
    for at, steps in enumerate(together):
        assert all(len(steps & other) < len(steps) / 10 for other in together[at + 1 :])


@given(cases(), st.floats(0.1, 1), st.integers(1, 40))
def test_progress_of_a_step_does_not_depend_on_the_length_of_the_run(case: Case, part: float, steps: int) -> None:
    case = case._replace(ranks=1)
    whole, fewer, cut = case.plan(epochs=3), case.plan(epochs=part), case.plan(max_steps=steps)
    for plan in (fewer, cut):
        for step in range(min(len(plan), len(whole))):
            assert plan.progress(step) == whole.progress(step)


def test_floating_point_noise_adds_no_epoch() -> None:
    assert len(SEVERAL_WINDOWS.plan(epochs=3 + 4e-16)) == len(SEVERAL_WINDOWS.plan(epochs=3))
    assert len(SEVERAL_WINDOWS.plan(epochs=0.1 + 0.2 + 0.7)) == len(SEVERAL_WINDOWS.plan(epochs=1))


@given(cases(), st.floats(0, 2))
@example(SEVERAL_WINDOWS._replace(epochs=0.3), 0.9)
def test_more_epochs_leave_the_earlier_steps_unchanged(case: Case, more: float) -> None:
    fewer, longer = steps_of(case.plan()), steps_of(case.plan(epochs=case.epochs + more))
    assert longer[: len(fewer)] == fewer


@given(cases(), st.integers(1, 40))
@example(SEVERAL_WINDOWS, 7)
def test_a_number_of_steps_shortens_the_plan_or_extends_it_to_further_epochs(case: Case, steps: int) -> None:
    cut, whole = steps_of(case.plan(max_steps=steps)), steps_of(case.plan())
    assert len(cut) == steps
    assert cut[: len(whole)] == whole[:steps]


@given(cases(), st.floats(0.01, 0.99))
def test_a_fraction_of_an_epoch_is_that_fraction_of_its_steps(case: Case, part: float) -> None:
    whole, taken = len(case.plan(epochs=1)), len(case.plan(epochs=part))
    assert taken == 1 or abs(taken - part * whole) <= 0.5


@given(cases())
@example(SEVERAL_WINDOWS)
def test_the_first_step_of_an_epoch_has_its_largest_micro_batch_if_the_budget_allows_it(case: Case) -> None:
    case = case._replace(tokens=case.tokens + case.budget.slots)
    lengths = case.row_lengths
    for steps in steps_by_epoch(case.plan()).values():
        largest = [max(len(batch) * lengths[batch[0]] for batch in batches) for batches in steps]
        assert largest[0] == max(largest)


@pytest.fixture(scope="module")
def story_lengths() -> list[int]:
    return [len(text.split()) * 4 // 3 for text in harbour_stories(1500, seed=1)]


@pytest.mark.parametrize("packing", PACKINGS)
def test_steps_over_the_harbour_stories_are_of_similar_size_with_little_padding(
    packing: Packing, story_lengths: list[int]
) -> None:
    plan = plan_budget(plan_rows(story_lengths, 256, packing), TokenBudget(4096, 2048))
    assert plan.utilisation >= 0.93
    assert len(plan.full) > 50
    assert plan.full.std() / plan.full.mean() <= 0.02


def test_steps_are_completed_by_rows_that_meet_the_budget_closely(story_lengths: list[int]) -> None:
    """Rows in arbitrary order would exceed the budget by half a row or more on average."""
    rows = plan_rows(story_lengths, 256, "none")
    mean, _ = plan_budget(rows, TokenBudget(4096, 2048)).overshoot
    assert mean < rows.predicted_tokens / len(rows) / 4


def test_a_micro_batch_smaller_than_the_longest_row_is_refused() -> None:
    rows = plan_rows([5, 9, 3], 16, "none")
    with pytest.raises(DataError, match=r"^--max_tokens_per_micro_batch 8 does not .* 9 tokens; use 9 or more"):
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
def test_a_budget_below_one_is_refused(numbers: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(DataError, match=f"^{sentence}$"):
        TokenBudget(*numbers)


@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_with_nothing_to_predict_are_refused(packing: Packing) -> None:
    for lengths in ([], [1]):
        with pytest.raises(DataError, match=r"^0 rows with a token to predict are too few .*; use more text$"):
            plan_budget(plan_rows(lengths, 8, packing), TokenBudget(10, 8))


def test_fewer_rows_than_processes_are_refused() -> None:
    rows = plan_rows([4, 4, 1], 8, "none")
    with pytest.raises(DataError, match=r"^2 rows with a token to predict are too few for 3 processes"):
        plan_budget(rows, TokenBudget(10, 8), ranks=3)


@pytest.mark.parametrize("epochs", [0, -1.0])
def test_no_epochs_are_refused_unless_steps_are_given(epochs: float) -> None:
    rows = plan_rows([4, 4], 8, "none")
    with pytest.raises(DataError, match=rf"^--num_train_epochs {epochs} must be above 0$"):
        plan_budget(rows, TokenBudget(10, 8), epochs=epochs)
    assert len(plan_budget(rows, TokenBudget(10, 8), epochs=epochs, max_steps=3)) == 3
