"""When a waiting request starts: pages are kept for the running ones that may grow, and for no others."""

from __future__ import annotations

import pytest

from slm_kv import Engine
from slm_testing.kv.tiny_models import greedy_params, make_model, run_to_end

PAGE_SIZE, PAGES = 4, 6


@pytest.mark.parametrize(
    ("new_tokens", "together"),
    [
        (4, 2),  # 12 tokens are stored: the pages of the prompt are enough
        (5, 1),  # the last but one is the first of a fourth page
    ],
)
def test_requests_share_a_pool_that_has_pages_for_both(new_tokens: int, together: int) -> None:
    with Engine(make_model("llama"), page_size=PAGE_SIZE, max_pages=PAGES, speculate="off") as engine:
        handles = [engine.submit([first, *range(20, 28)], greedy_params(new_tokens)) for first in (1, 2)]
        engine.step()
        assert engine.load().running == together
        run_to_end(engine)
        assert engine.load().preemptions == 0
    assert [len(handle.token_ids) for handle in handles] == [new_tokens] * 2
