"""Choosing the number of threads."""

from types import SimpleNamespace

import pytest
import torch

from slm_kv import threads
from slm_kv.threads import fastest_threads


@pytest.mark.parametrize(("slow", "expected"), [((4,), 2), ((2, 4), 1), ((1, 2), 4), ((), 1)])
def test_the_fastest_number_of_threads_is_set_and_the_smallest_of_equally_fast_ones(
    slow: tuple[int, ...], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, clock = torch.get_num_threads(), [0.0]
    costs = {1: 3, 2: 2, 4: 1} if slow else dict.fromkeys((1, 2, 4), 2)
    monkeypatch.setattr(threads, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def run() -> None:
        now = torch.get_num_threads()
        clock[0] += costs[now] + 5 * (now in slow)

    try:
        assert fastest_threads(run, max_threads=4) == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
