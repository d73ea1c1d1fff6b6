import time

import pytest
import torch

from slm_kv.threads import fastest_threads


@pytest.mark.parametrize(("slow", "expected"), [((4,), 2), ((2, 4), 1), ((1, 2), 4), ((), 1)])
def test_the_fastest_number_of_threads_is_set_and_of_equals_the_fewest(slow: tuple[int, ...], expected: int) -> None:
    before = torch.get_num_threads()
    costs = {1: 3, 2: 2, 4: 1} if slow else dict.fromkeys((1, 2, 4), 2)

    def run() -> None:
        threads = torch.get_num_threads()
        time.sleep(0.004 * (costs[threads] + 5 * (threads in slow)))

    try:
        assert fastest_threads(run, most=4) == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
