from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from slm_lab.advice import advise
from slm_lab.figures import Mode, Outcome, Spread
from slm_lab.runs import Run

MakeMode = Callable[..., Mode]
bits = st.floats(0.5, 3.0)


def mode(name: str, *after: float, trainable: float = 1000, peak: float = 1e9, speed: float = 1000) -> Mode:
    """Of a base at 2 bits per byte; as many seeds as there are values of ``after``."""
    values = {"bits_before": [2.0], "bits_after": after, "trainable": [trainable], "peak": [peak]}
    values["tokens_per_second"] = [speed]
    spreads = {key: spread for key, of in values.items() if (spread := Spread.of(of))}
    run = Run(name, Path(name), name, "finished", "sample", "sample", "trainer")
    return Mode(name, (Outcome(run),) * len(after), spreads)


def told(*modes: Mode) -> str:
    return "\n".join(advise(modes))


def test_the_mode_with_the_fewest_bits_has_the_best_quality() -> None:
    first, *_ = advise([mode("lora", 1.2), mode("baseline", 1.1), mode("butterfly", 1.3)])
    assert first.startswith("Best quality: baseline, 1.1000 bits per byte, 0.9000 less than the base")
    assert "next is lora with 1.2000" in first


@given(st.lists(bits, min_size=2, max_size=5, unique=True), st.randoms())
def test_advice_does_not_depend_on_the_order_of_the_modes(after: list[float], random: Random) -> None:
    modes = [
        mode(f"m{at}", value, trainable=at + 1, peak=1e9 + at, speed=9.0 * at + 1) for at, value in enumerate(after)
    ]
    shuffled = modes[:]
    random.shuffle(shuffled)
    assert advise(modes) == advise(shuffled)


@given(st.lists(bits, min_size=2, max_size=5, unique=True))
def test_a_mode_that_is_no_better_than_the_base_is_never_recommended_for_quality(after: list[float]) -> None:
    said = advise([mode(f"m{at}", value) for at, value in enumerate(after)])
    if min(after) >= 2.0:
        assert len(said) == 1
        assert "No mode got better than the base" in said[0]
    else:
        assert f"Best quality: m{after.index(min(after))}," in said[0]
        worse = {f"m{at}" for at, value in enumerate(after) if value >= 2.0}
        assert bool(worse) == ("no better than the base" in said[-1])
        assert all(name in said[-1] for name in worse)


def test_one_seed_is_said_to_decide_little() -> None:
    assert "Only one seed was run" in told(mode("lora", 1.2), mode("butterfly", 1.3))
    assert "Only one seed was run" in told(mode("lora", 1.2, 1.21), mode("butterfly", 1.3))


def test_modes_within_the_spread_over_seeds_are_not_told_apart() -> None:
    said = told(mode("lora", 1.20, 1.24), mode("qlora", 1.23, 1.26), mode("butterfly", 1.3, 1.31))
    assert "Over 2 seeds lora cannot be told from qlora: their ranges overlap" in said
    assert "Only one seed" not in said
    clear = told(mode("lora", 1.20, 1.24), mode("butterfly", 1.3, 1.31))
    assert "no run of another mode came as low as any of lora" in clear


def test_the_smallest_that_keeps_nine_tenths_of_the_gain_is_named() -> None:
    sizes = (mode("baseline", 1.0, trainable=5e6), mode("lora", 1.05, trainable=4e5), mode("block", 1.2, trainable=2e4))
    assert "Smallest that loses little: lora has 95% of the gain of baseline, trains 400,000 parameters" in told(*sizes)


def test_where_every_smaller_mode_loses_much_that_is_said() -> None:
    said = told(mode("baseline", 1.0, trainable=5e6), mode("lora", 1.5, trainable=4e5))
    assert "No mode with fewer trained parameters has 90% of that gain" in said


def test_memory_and_speed_decide_only_where_they_differ() -> None:
    close = told(mode("lora", 1.2, peak=1.00e9, speed=1000), mode("butterfly", 1.3, peak=1.02e9, speed=1030))
    assert "Peak memory decides nothing: all lie between 1.00 GB and 1.02 GB" in close
    assert "Speed decides nothing" in close
    far = told(mode("lora", 1.2, peak=1.0e9, speed=1000), mode("baseline", 1.3, peak=2.0e9, speed=3000))
    assert "Least memory: lora, 1.00 GB; baseline is at the other end with 2.00 GB" in far
    assert "Fastest: baseline, 3,000 tokens a second; lora is at the other end with 1,000" in far


def test_speeds_within_the_spread_over_seeds_are_not_told_apart() -> None:
    def fast(name: str, *speeds: float) -> Mode:
        made = mode(name, 1.2, 1.3)
        spread = Spread(statistics.median(speeds), min(speeds), max(speeds))
        return Mode(name, made.outcomes, {**made.values, "tokens_per_second": spread})

    all_alike = told(fast("lora", 900, 1200), fast("butterfly", 700, 1000))
    assert "Speed decides nothing: over the seeds the range of lora, which leads, overlaps" in all_alike
    some = told(fast("lora", 900, 1200), fast("butterfly", 700, 1000), fast("qlora", 300, 310))
    assert "Fastest: lora, 1,050 tokens a second; qlora is at the other end with 305; over the seeds it" in some
    assert "cannot be told from butterfly." in some


def test_a_single_mode_is_compared_with_nothing_but_the_base() -> None:
    assert advise([mode("lora", 1.2)]) == [
        "lora took 0.8000 bits per byte off the base; there is no other mode to compare with."
    ]


def test_without_a_finished_run_there_is_no_advice() -> None:
    assert advise([]) == ["No run has come to its end yet."]
