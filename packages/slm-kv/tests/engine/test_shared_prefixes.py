"""Requests with a common beginning that arrive together: one computes it, the others wait for it."""

from collections.abc import Iterator

import pytest

from slm_kv import Engine, SamplingParams
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, run_to_end

MODEL = make_model("llama", seed=2)
LONG = [3 + index % 80 for index in range(38)]  # 9 pages of 4 and two tokens
EXPECTED = greedy_tokens(MODEL, LONG, 6)
OTHER = [90 - index for index in range(20)]


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(MODEL, page_size=4, max_pages=200, max_sequences=12, max_step_tokens=64) as engine:
        yield engine


def test_several_completions_of_one_new_prompt_compute_it_once(engine: Engine) -> None:
    handles = [engine.submit(LONG, SamplingParams(max_new_tokens=4, seed=seed, ignore_eos=True)) for seed in range(8)]
    greedily = engine.submit(LONG, greedy_params(6))
    run_to_end(engine)
    assert [handle.reused_tokens for handle in handles] == [0] + [36] * 7
    assert greedily.token_ids == EXPECTED
    assert len({tuple(handle.token_ids) for handle in handles}) > 1


def test_a_request_with_another_beginning_does_not_wait(engine: Engine) -> None:
    handles = [engine.submit(prompt, greedy_params(3)) for prompt in (LONG, LONG, OTHER)]
    engine.step()
    assert [len(handle.token_ids) for handle in handles] == [1, 0, 1]
    engine.step()
    assert [len(handle.token_ids) for handle in handles] == [2, 1, 2]


def test_a_request_does_not_wait_for_a_short_common_prefix(engine: Engine) -> None:
    short_prefix = [*LONG[:16], *OTHER[:4]]  # 16 of the 38 tokens that LONG has left to compute
    handles = [engine.submit(prompt, greedy_params(3)) for prompt in (LONG, short_prefix)]
    engine.step()
    assert [len(handle.token_ids) for handle in handles] == [1, 1]


def test_a_long_instruction_before_short_questions_is_computed_once(engine: Engine) -> None:
    handles = [engine.submit([*LONG[:32], *question], greedy_params(3)) for question in ([5, 6], [7], [8, 9, 10], [11])]
    run_to_end(engine)
    assert [handle.reused_tokens for handle in handles] == [0, 32, 32, 32]


def test_if_the_first_is_cancelled_the_next_computes_the_prefix() -> None:
    with Engine(MODEL, page_size=4, max_pages=200, max_sequences=12, max_step_tokens=12) as engine:
        first, *others = [engine.submit(LONG, greedy_params(5)) for _ in range(3)]
        engine.step()
        assert engine.cancel(first)
        run_to_end(engine)
        assert [handle.token_ids for handle in others] == [EXPECTED[:5]] * 2
        assert [handle.reused_tokens for handle in others] == [0, 36]
        assert engine.pool.used_pages == 0


@pytest.mark.parametrize(("caching", "use_cache"), [(False, True), (True, False)])
def test_a_request_that_cannot_reuse_a_prefix_does_not_wait(caching: bool, use_cache: bool) -> None:
    with Engine(MODEL, page_size=4, max_pages=200, max_step_tokens=100, prefix_caching=caching) as engine:
        handles = [engine.submit(LONG, greedy_params(2), use_cache=cached) for cached in (True, use_cache)]
        engine.step()
        assert [len(handle.token_ids) for handle in handles] == [1, 1]
