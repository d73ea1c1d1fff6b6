"""Spreads over seeds, and the best value of a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from slm_lab.results.metrics import METRIC_BY_KEY
from slm_lab.results.mode_results import ModeResults, best_modes
from slm_lab.results.run_result import RunResult
from slm_lab.results.spread import Spread

MakeMode = Callable[..., ModeResults]
numbers = st.lists(st.floats(-1e9, 1e9) | st.sampled_from([None, float("nan"), float("inf")]), max_size=6)


@given(numbers)
def test_a_spread_contains_its_median_and_ignores_values_that_are_not_finite(values: list[float | None]) -> None:
    spread = Spread.from_values(values)
    known = [value for value in values if value is not None and abs(value) <= 1e9]
    assert (spread is None) == (not known)
    if spread:
        assert (spread.minimum, spread.maximum) == (min(known), max(known))
        assert spread.minimum <= spread.median <= spread.maximum


@given(st.tuples(*[st.floats(-9, 9)] * 4))
def test_two_spreads_overlap_exactly_if_a_value_lies_in_both(edges: tuple[float, float, float, float]) -> None:
    (a, b), (c, d) = sorted(edges[:2]), sorted(edges[2:])
    first, second = Spread(a, a, b), Spread(c, c, d)
    overlap = any(a <= value <= b and c <= value <= d for value in edges)
    assert first.overlaps(second) == second.overlaps(first) == overlap


def test_the_best_value_of_a_metric_is_at_its_better_end_and_all_ties_are_marked(make_mode: MakeMode) -> None:
    modes = [make_mode("lora", 1.2, 1.21), make_mode("qlora", 1.3, 1.31), make_mode("butterfly", 1.4, 1.41)]
    assert best_modes(modes, METRIC_BY_KEY["bits_after"]) == {"lora"}
    assert best_modes(modes, METRIC_BY_KEY["trainable"]) == {"butterfly"}
    assert best_modes(modes[:2], METRIC_BY_KEY["trainable"]) == set()
    tied = [*modes[:2], make_mode("baseline", 1.0)]
    assert best_modes(tied, METRIC_BY_KEY["trainable"]) == {"lora", "qlora"}
    assert best_modes(modes, METRIC_BY_KEY["bits_before"]) == best_modes(modes, METRIC_BY_KEY["weights"]) == set()


def test_a_value_that_seeds_change_is_best_only_beyond_their_spread(make_mode: MakeMode) -> None:
    fast = {"speed": {"steps": 8, "train_seconds": 1.0, "tokens_per_second": 9000.0}}
    one_seed = [make_mode("lora", 1.2, **fast), make_mode("butterfly", 1.3)]
    for key in ("bits_after", "perplexity_after", "tokens_per_second", "seconds", "peak"):
        assert best_modes(one_seed, METRIC_BY_KEY[key]) == set(), key
    assert best_modes(one_seed, METRIC_BY_KEY["trainable"]) == {"butterfly"}
    overlapping = [make_mode("lora", 1.2, 1.3), make_mode("butterfly", 1.28, 1.4)]
    assert best_modes(overlapping, METRIC_BY_KEY["bits_after"]) == set()
    separate = [make_mode("lora", 1.2, 1.3), make_mode("butterfly", 1.31, 1.4)]
    assert best_modes(separate, METRIC_BY_KEY["bits_after"]) == {"lora"}
    assert best_modes([*separate, make_mode("baseline", 1.5)], METRIC_BY_KEY["bits_after"]) == set()  # one seed


def test_a_range_repeats_no_unit(make_mode: MakeMode) -> None:
    memory = make_mode("lora", 1.2).results[0].run
    peaks = [RunResult(replace(memory, peak_bytes=peak)) for peak in (9.9e8, 1.2e9, 1.3e9)]
    metric = METRIC_BY_KEY["peak"]
    assert ModeResults.from_results("lora", peaks[1:]).range_text(metric, " to ") == "1.20 to 1.30 GB"
    assert ModeResults.from_results("lora", peaks).range_text(metric, " to ") == "990 MB to 1.30 GB"


def test_the_time_of_a_resumed_run_includes_the_steps_before_the_interruption(make_mode: MakeMode) -> None:
    whole = make_mode("lora", 1.2)
    resumed = make_mode("butterfly", 1.2, speed={"steps": 2, "train_seconds": 1.0, "tokens_per_second": 2000.0})
    assert whole.median("seconds") == 4.0
    assert resumed.median("seconds") == 4.0  # its log has 8 steps
