"""Interleaved timing: the order of contenders, progress, and ratios by round."""

import pytest

from slm_bench.harness.interleaved_timing import Times, interleave, time_interleaved


def test_contenders_alternate_in_reversing_order_after_a_round_to_warm_up() -> None:
    called: list[str] = []
    times = time_interleaved({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3)
    assert "".join(called) == "baabbaab"
    assert [len(contender_times.seconds) for contender_times in times.values()] == [3, 3]


def test_results_are_collected_by_round_with_progress_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    results = interleave({name: lambda number, name=name: f"{name}{number}" for name in "ab"}, 2, "letters")
    assert results == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    assert capsys.readouterr().err.splitlines()[1:3] == ["letters, round 1 of 2: a", "letters, round 2 of 2: a"]


def test_a_ratio_pairs_the_rounds_and_keeps_their_spread() -> None:
    assert Times((1.0, 2.0, 4.0)).speed_over(Times((2.0, 6.0, 4.0))) == pytest.approx((2.0, 1.0, 3.0))
