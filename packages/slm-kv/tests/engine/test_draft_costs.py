"""The estimated cost of a draft's rows, and drafts that follow it."""

from __future__ import annotations

import random

import pytest

from slm_kv.sampling import step_times
from slm_kv.sampling.speculation import CREDIT_PER_TOKEN, FIRST_CREDIT, Drafter
from slm_kv.sampling.step_times import FIRST_ROW_COST, StepTimes

END_ITEM = StepTimes.end_item  # before a fixture replaces it


def times_of(slope: float, rows: list[int], noise: float = 0.0) -> StepTimes:
    times, source = StepTimes(), random.Random(1)
    for count in rows:
        times.record(count, (1 + (count - 1) * slope) * (1 + source.uniform(0, noise)))
    return times


@pytest.mark.parametrize("slope", [0.05, 0.2, 0.6, 0.95])
@pytest.mark.parametrize("sequences", [1, 4])
def test_the_cost_of_a_row_is_measured(slope: float, sequences: int) -> None:
    cost = times_of(slope, [sequences, sequences + 3] * 30).row_cost(sequences)
    assert cost == pytest.approx(sequences * slope / (1 + (sequences - 1) * slope), rel=0.25)


@pytest.mark.parametrize("slope", [0.1, 0.8])
def test_before_and_without_drafts_a_cost_is_assumed(slope: float) -> None:
    assert StepTimes().row_cost(1) == FIRST_ROW_COST
    assert times_of(slope, [1] * 50).row_cost(1) == pytest.approx(FIRST_ROW_COST, rel=0.01)
    assert times_of(slope, [1, 4] * 20 + [1] * 400).row_cost(1) == pytest.approx(FIRST_ROW_COST, rel=0.05)


def test_steps_that_were_held_up_count_little() -> None:
    times = StepTimes()
    for step in range(200):
        rows = 4 if step % 3 == 0 else 1
        times.record(rows, (1 + (rows - 1) * 0.2) * (50 if step % 40 == 0 else 1))
    assert 0.1 < times.row_cost(1) < 0.4


def test_the_clock_runs_from_the_plan_to_the_last_item(monkeypatch: pytest.MonkeyPatch) -> None:
    times, clock = StepTimes(), iter([10.0, 11.0, 20.0, 21.5] * 9)
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: next(clock))
    for rows in (1, 2) * 9:
        times.start(2, rows)
        END_ITEM(times)
        END_ITEM(times)
        END_ITEM(times)  # beyond the last item: of a step that is not timed
    assert times.row_cost(1) == pytest.approx(0.5, rel=0.25)


def lost_tokens(cost: float, follows: bool, tokens: int = 400) -> tuple[float, int]:
    """The time that drafts of a text lose, in tokens, and how many tokens they save.

    The text repeats n-grams that other tokens follow, or itself.
    """
    ids = [1, 2, 3, 4, 5, 6, 1, 2]
    drafter, rows, saved = Drafter(ids), 0, 0
    while len(ids) < tokens:
        draft = drafter.draft(15, cost)
        truth = [1 + (len(ids) + index) % 6 for index in range(len(draft))]
        if not follows:
            truth = [100 + len(ids)] * len(draft)
        accepted = len(draft) if follows else 0
        ids += [*truth[:accepted], 1 + (len(ids) + accepted) % 6] if follows else [100 + len(ids), 1, 2]
        drafter.record(len(draft), accepted)
        rows, saved = rows + len(draft), saved + accepted
    return rows * cost - saved, saved


@pytest.mark.parametrize("cost", [0.05, 0.2, 0.39, 0.7])
def test_failing_drafts_lose_little(cost: float) -> None:
    lost, saved = lost_tokens(cost, follows=False)
    assert saved == 0
    assert lost <= FIRST_CREDIT + CREDIT_PER_TOKEN * 400


@pytest.mark.parametrize(("cost", "speed"), [(0.05, 4.5), (0.2, 2.5), (0.5, 1.3)])
def test_repetitions_are_drafted_as_long_as_that_pays(cost: float, speed: float) -> None:
    lost, saved = lost_tokens(cost, follows=True)
    assert saved > 0
    assert 400 / (400 + lost) > speed
