"""Laws of the plans by tokens: what a step holds."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slm_data.budget import LOOKAHEAD, WINDOW, TokenBudget, plan_budget
from slm_data.errors import DataError
from slm_data.packing import PACKINGS, Packing, plan_rows
from slm_data.sample.corpus import stories
from slm_testing.data.budget_cases import (
    SINGLE_ROWS,
    SORTED_APART,
    Case,
    by_epoch,
    drawn,
    in_turn,
    of_many_rows,
    shares_of,
    steps_of,
)


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


@given(drawn(), st.floats(0.1, 1), st.integers(1, 40))
def test_progress_of_a_step_does_not_depend_on_how_long_the_run_is(case: Case, part: float, steps: int) -> None:
    case = case._replace(ranks=1)
    whole, fewer, cut = case.plan(epochs=3), case.plan(epochs=part), case.plan(max_steps=steps)
    for plan in (fewer, cut):
        for step in range(min(len(plan), len(whole))):
            assert plan.progress(step) == whole.progress(step)


def test_noise_of_floating_point_is_no_part_of_an_epoch() -> None:
    assert len(SORTED_APART.plan(epochs=3 + 4e-16)) == len(SORTED_APART.plan(epochs=3))
    assert len(SORTED_APART.plan(epochs=0.1 + 0.2 + 0.7)) == len(SORTED_APART.plan(epochs=1))


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
