from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_lab.comparison import Comparison
from slm_lab.figures import ROWS, Mode, Outcome, Spread, best, duration, size
from slm_lab.runs import Run

MakeMode = Callable[..., Mode]
numbers = st.lists(st.floats(-1e9, 1e9) | st.sampled_from([None, float("nan"), float("inf")]), max_size=6)
BY_KEY = {row.key: row for row in ROWS}


@given(numbers)
def test_a_spread_holds_its_median_and_leaves_out_what_is_no_number(values: list[float | None]) -> None:
    spread = Spread.of(values)
    known = [value for value in values if value is not None and abs(value) <= 1e9]
    assert (spread is None) == (not known)
    if spread:
        assert (spread.least, spread.most) == (min(known), max(known))
        assert spread.least <= spread.median <= spread.most


@given(st.tuples(*[st.floats(-9, 9)] * 4))
def test_two_spreads_overlap_exactly_where_a_value_lies_in_both(edges: tuple[float, float, float, float]) -> None:
    (a, b), (c, d) = sorted(edges[:2]), sorted(edges[2:])
    one, other = Spread(a, a, b), Spread(c, c, d)
    assert one.overlaps(other) == other.overlaps(one) == any(a <= value <= b and c <= value <= d for value in edges)


def test_the_best_of_a_row_is_the_end_that_is_better_and_ties_are_all_marked(make_mode: MakeMode) -> None:
    fast = {"speed": {"steps": 8, "train_seconds": 1.0, "tokens_per_second": 9000.0}}
    modes = [make_mode("lora", 1.2), make_mode("qlora", 1.2), make_mode("butterfly", 1.3, **fast)]
    assert best(modes, BY_KEY["bits_after"]) == {"lora", "qlora"}
    assert best(modes, BY_KEY["tokens_per_second"]) == {"butterfly"}
    assert best(modes, BY_KEY["trainable"]) == {"butterfly"}
    assert best(modes, BY_KEY["bits_before"]) == best(modes, BY_KEY["weights"]) == set()


def test_the_time_of_a_resumed_run_counts_the_steps_before(make_mode: MakeMode) -> None:
    whole = make_mode("lora", 1.2)
    part = make_mode("butterfly", 1.2, speed={"steps": 2, "train_seconds": 1.0, "tokens_per_second": 2000.0})
    assert whole.median("seconds") == 4.0
    assert part.median("seconds") == 4.0  # its log has 8 steps


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (size(999), "999 B"),
        (size(1500), "1.50 kB"),
        (size(65_432_100), "65.4 MB"),
        (size(999_600), "1,000 kB"),
        (size(2.5e9), "2.50 GB"),
        (duration(5), "5.0 s"),
        (duration(600), "10.0 min"),
        (duration(7200), "2.0 h"),
    ],
)
def test_sizes_and_times_have_units_that_are_read_at_a_glance(text: str, value: str) -> None:
    assert text == value


def run(name: str, **changes: Any) -> Outcome:
    plain = Run(name, Path(name), "lora", "finished", "sample", "sample", "trainer")
    return Outcome(replace(plain, **changes))


def test_runs_that_differ_by_their_seed_are_one_mode_and_others_stand_alone() -> None:
    outcomes = [run("lora"), run("lora-seed43"), run("lora-seed44"), run("lora-r4"), run("deep/lora")]
    found = Comparison.of(outcomes, {})
    assert {mode.name: len(mode.outcomes) for mode in found.modes} == {"lora": 3, "lora-r4": 1, "deep/lora": 1}
    assert found.seeds == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base": "distilgpt2"}, "different bases"),
        ({"validation": "other"}, "different texts"),
        ({"block_size": 64.0}, "rows of different lengths"),
        ({"arguments": {"max_steps": 9}}, "different budgets"),
        ({"device": "H100"}, "different devices"),
        ({"threads": 8}, "different devices or thread counts"),
    ],
)
def test_what_keeps_runs_from_being_compared_is_said(changes: dict[str, Any], said: str) -> None:
    alike = {"arguments": {"max_steps": 8}, "validation": "texts"}
    assert Comparison.of([run("a", **alike), run("b", **alike)], {}).caveats == []
    (caveat,) = Comparison.of([run("a", **alike), run("b", **alike | changes)], {}).caveats
    assert said in caveat


@pytest.mark.parametrize(
    ("changes", "axis", "budget"),
    [
        ({"arguments": {"max_steps": 1200}}, "steps", "1,200 optimizer steps"),
        ({"arguments": {"max_steps": 10**9, "max_minutes": 2.5}}, "seconds", "2.5 minutes of training"),
        ({"flow": "dynamic", "tokens": 5000.0}, "tokens", "5,000 predicted tokens"),
        ({"arguments": {"max_steps": -1, "num_train_epochs": 3.0}}, "steps", "3 epochs"),
    ],
)
def test_the_axis_of_the_curves_is_what_the_budget_counts(changes: dict[str, Any], axis: str, budget: str) -> None:
    found = Comparison.of([run("a", **changes), run("b", **changes)], {})
    assert (found.axis, found.budget) == (axis, budget)
    mixed = Comparison.of([run("a", **changes), run("b", arguments={"max_steps": 3})], {})
    assert (mixed.axis, mixed.budget) == ("steps", "")
