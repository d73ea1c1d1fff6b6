"""Recommendations derived from the figures of a comparison."""

from __future__ import annotations

import statistics
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from slm_lab.results.advice import advise
from slm_lab.results.mode_results import ModeResults
from slm_lab.results.run_result import RunResult
from slm_lab.results.spread import Spread
from slm_lab.runs.record import Run

bits_per_byte = st.floats(0.5, 3.0)


def make_results(
    name: str, *bits_after: float, trainable: float = 1000, peak: float = 1e9, speed: float = 1000
) -> ModeResults:
    """Results from a base of 2 bits per byte; one seed for each value of ``bits_after``."""
    values = {"bits_before": [2.0], "bits_after": bits_after, "trainable": [trainable], "peak": [peak]}
    values["tokens_per_second"] = [speed]
    spreads = {key: spread for key, numbers in values.items() if (spread := Spread.from_values(numbers))}
    run = Run(name, Path(name), name, "finished", "sample", "sample", "trainer")
    return ModeResults(name, (RunResult(run),) * len(bits_after), spreads)


def advice_text(*modes: ModeResults) -> str:
    return "\n".join(advise(modes))


def test_the_mode_with_the_fewest_bits_has_the_best_quality() -> None:
    first, *_ = advise([make_results("lora", 1.2), make_results("baseline", 1.1), make_results("butterfly", 1.3)])
    assert first.startswith(
        "Best quality: baseline (1,000 parameters), 1.1000 bits per byte, 0.9000 less than the base"
    )
    assert "next is lora (1,000 parameters) with 1.2000" in first


@given(st.lists(bits_per_byte, min_size=2, max_size=5, unique=True), st.randoms())
def test_advice_does_not_depend_on_the_order_of_the_modes(bits_after: list[float], random: Random) -> None:
    modes = [
        make_results(f"m{index}", bits, trainable=index + 1, peak=1e9 + index, speed=9.0 * index + 1)
        for index, bits in enumerate(bits_after)
    ]
    shuffled = modes[:]
    random.shuffle(shuffled)
    assert advise(modes) == advise(shuffled)


@given(st.lists(bits_per_byte, min_size=2, max_size=5, unique=True))
def test_a_mode_that_did_not_improve_on_the_base_is_never_recommended_for_quality(bits_after: list[float]) -> None:
    sentences = advise([make_results(f"m{index}", bits) for index, bits in enumerate(bits_after)])
    if min(bits_after) >= 2.0:
        assert len(sentences) == 1
        assert "No mode improved on the base" in sentences[0]
    else:
        assert f"Best quality: m{bits_after.index(min(bits_after))} (1,000 parameters)," in sentences[0]
        not_improved = {f"m{index}" for index, bits in enumerate(bits_after) if bits >= 2.0}
        assert bool(not_improved) == ("did not improve on the base" in sentences[-1])
        assert all(name in sentences[-1] for name in not_improved)


def test_a_comparison_of_one_seed_warns_that_differences_may_be_chance() -> None:
    assert "Only one seed was run" in advice_text(make_results("lora", 1.2), make_results("butterfly", 1.3))
    assert "Only one seed was run" in advice_text(make_results("lora", 1.2, 1.21), make_results("butterfly", 1.3))


def test_modes_with_overlapping_ranges_are_not_distinguished() -> None:
    overlapping = advice_text(
        make_results("lora", 1.20, 1.24), make_results("qlora", 1.23, 1.26), make_results("butterfly", 1.3, 1.31)
    )
    assert "With 2 seeds, lora cannot be distinguished from qlora: their ranges overlap" in overlapping
    assert "Only one seed" not in overlapping
    separate = advice_text(make_results("lora", 1.20, 1.24), make_results("butterfly", 1.3, 1.31))
    assert "every run of lora is better than every run of the other modes" in separate


def test_the_smallest_mode_that_keeps_nine_tenths_of_the_improvement_is_named() -> None:
    modes = (
        make_results("baseline", 1.0, trainable=5e6),
        make_results("lora", 1.05, trainable=4e5),
        make_results("block", 1.2, trainable=2e4),
    )
    sentence = "Smallest with little loss: lora keeps 95% of the improvement of baseline, with 400,000 trainable"
    assert sentence in advice_text(*modes)


def test_a_mode_of_about_the_same_size_is_not_recommended_as_the_smaller() -> None:
    modes = (make_results("butterfly", 1.0, trainable=26_112), make_results("lora", 1.01, trainable=24_576))
    text = advice_text(*modes)
    assert "Smallest" not in text
    assert "fewer trainable parameters" not in text


def test_without_a_smaller_mode_that_keeps_enough_the_advice_says_so() -> None:
    text = advice_text(make_results("baseline", 1.0, trainable=5e6), make_results("lora", 1.5, trainable=4e5))
    assert "No mode with fewer trainable parameters keeps 90% of that improvement" in text


def test_memory_and_speed_matter_only_where_they_differ() -> None:
    close = advice_text(
        make_results("lora", 1.2, peak=1.00e9, speed=1000), make_results("butterfly", 1.3, peak=1.02e9, speed=1030)
    )
    assert "Peak memory is no reason to choose: all modes are between 1.00 GB and 1.02 GB" in close
    assert "Speed is no reason to choose" in close
    different = advice_text(
        make_results("lora", 1.2, peak=1.0e9, speed=1000), make_results("baseline", 1.3, peak=2.0e9, speed=3000)
    )
    assert "Least memory: lora with 1.00 GB (most: baseline with 2.00 GB)" in different
    assert "Fastest: baseline with 3,000 tokens per second (slowest: lora with 1,000)" in different


def test_modes_whose_speeds_overlap_over_the_seeds_are_not_distinguished() -> None:
    def with_speeds(name: str, *speeds: float) -> ModeResults:
        results = make_results(name, 1.2, 1.3)
        spread = Spread(statistics.median(speeds), min(speeds), max(speeds))
        return ModeResults(name, results.results, {**results.spreads, "tokens_per_second": spread})

    all_overlap = advice_text(with_speeds("lora", 900, 1200), with_speeds("butterfly", 700, 1000))
    assert "Speed is no reason to choose: the range of lora overlaps those of all other modes" in all_overlap
    some_overlap = advice_text(
        with_speeds("lora", 900, 1200), with_speeds("butterfly", 700, 1000), with_speeds("qlora", 300, 310)
    )
    assert "Fastest: lora with 1,050 tokens per second (slowest: qlora with 305); with these seeds it" in some_overlap
    assert "cannot be distinguished from butterfly." in some_overlap


def test_a_single_mode_is_compared_with_the_base_alone() -> None:
    assert advise([make_results("lora", 1.2)]) == [
        "lora (1,000 parameters) improved on the base by 0.8000 bits per byte; there is no other mode to compare it "
        "with."
    ]


def test_without_a_finished_run_there_is_no_advice() -> None:
    assert advise([]) == ["No run has finished yet."]
