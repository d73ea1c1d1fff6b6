import pytest

from slm_bench.turns import Times, in_turns


def test_ways_take_turns_in_alternating_order_after_one_to_warm_up() -> None:
    called: list[str] = []
    found = in_turns({name: lambda name=name: called.append(name) for name in "ab"}, rounds=3)
    assert "".join(called) == "baabbaab"
    assert [len(times.seconds) for times in found.values()] == [3, 3]


def test_a_ratio_pairs_the_turns_and_says_how_they_spread() -> None:
    assert Times((1.0, 2.0, 4.0)).over(Times((2.0, 6.0, 4.0))) == pytest.approx((2.0, 1.0, 3.0))
