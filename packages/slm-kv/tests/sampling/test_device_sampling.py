"""Tokens sampled on the device for many rows together are those that the sampler of each row draws alone."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv.sampling import device_sampling
from slm_kv.sampling.device_sampling import INVALID, SampledRow, sample_rows
from slm_kv.sampling.logprobs import SampledToken
from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.sampler import TokenSampler
from slm_testing.kv.operation_counts import OperationCounts

SIZE = 40
inf, nan = float("inf"), float("nan")
sampling_options = st.fixed_dictionaries(
    {
        "temperature": st.just(0.0) | st.floats(0.05, 5),
        "top_k": st.integers(0, SIZE + 2),
        "top_p": st.just(1.0) | st.floats(0.01, 0.9999),
        "min_p": st.just(0.0) | st.floats(0.001, 0.999),
        "seed": st.integers(0, 2**40),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(sampling_options, min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.booleans())
def test_a_row_gets_the_token_of_its_own_sampler(options: list[dict[str, Any]], seed: int, has_ties: bool) -> None:
    samplers, alone = ([TokenSampler(SamplingParams(**each), [], SIZE) for each in options] for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        logits = torch.randn(len(options), SIZE, generator=generator) * 3
        if has_ties:  # and tokens that cannot come
            logits = logits.round().masked_fill(logits < -2, -inf)
        rows = [row for sampler in samplers for row in sampler.next_rows(1)]
        tokens = sample_rows(logits, rows).tolist()
        assert tokens == [sampler.sample(row).token_id for sampler, row in zip(alone, logits, strict=True)]
        for sampler, token in zip(samplers, tokens, strict=True):
            assert sampler.take(SampledToken(token)).token_id == token


def test_drafted_rows_take_the_numbers_that_the_tokens_would_take_one_by_one() -> None:
    params, logits = SamplingParams(seed=4), torch.randn(6, SIZE, generator=torch.Generator().manual_seed(0))
    ahead, alone = TokenSampler(params, [], SIZE), TokenSampler(params, [], SIZE)
    rows = ahead.next_rows(4)
    for token in sample_rows(logits[:2], rows[:2]).tolist():  # the other two rows are rejected
        ahead.take(SampledToken(token))
    assert ahead.next_rows(2) == rows[2:]
    actual = [ahead.sample(row).token_id for row in logits[2:]]
    assert actual == [alone.sample(row).token_id for row in logits][2:]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_without_a_finite_maximum_are_invalid_and_others_are_not(temperature: float) -> None:
    row = SampledRow(SamplingParams(temperature=temperature, top_p=0.9), 0.5)
    logits = torch.zeros(4, SIZE)
    logits[0, 7], logits[1, 7], logits[2] = nan, inf, -inf
    tokens = sample_rows(logits, [row] * 4).tolist()
    assert tokens[:3] == [INVALID] * 3
    assert 0 <= tokens[3] < SIZE


def test_the_largest_number_draws_a_token_that_can_come() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, -inf]])
    assert sample_rows(logits, [SampledRow(SamplingParams(), 1 - 2**-53)]).tolist() == [2]


def test_many_rows_are_sampled_in_groups_to_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(9, SIZE, generator=torch.Generator().manual_seed(1))
    rows = [SampledRow(SamplingParams(temperature=index % 3, top_k=5), index / 9) for index in range(9)]
    together = sample_rows(logits, rows)
    monkeypatch.setattr(device_sampling, "MAX_NUMBERS", 2 * SIZE)
    assert torch.equal(sample_rows(logits, rows), together)


def count_operations(rows: int, **params: Any) -> int:
    """The operations that a GPU would be given to sample ``rows`` rows of different seeds, none of which waits."""
    logits = torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(rows))
    sampled = [SampledRow(SamplingParams(seed=index, **params), index / rows) for index in range(rows)]
    with OperationCounts() as counts:
        tokens = sample_rows(logits, sampled)
    assert (tokens.dtype, tokens.shape, counts.waits) == (torch.int64, (rows,), [])
    return len(counts.operations)


@pytest.mark.parametrize(
    ("params", "operations"),
    [
        ({"temperature": 0}, 3),
        ({"temperature": 0.8}, 23),
        ({"min_p": 0.1}, 23),
        ({"top_k": 5}, 44),
        ({"temperature": 0.8, "top_k": 5, "top_p": 0.9, "min_p": 0.1}, 44),
    ],
)
def test_64_rows_take_no_more_operations_than_one(params: dict[str, Any], operations: int) -> None:
    assert count_operations(1, **params) == count_operations(64, **params) <= operations
