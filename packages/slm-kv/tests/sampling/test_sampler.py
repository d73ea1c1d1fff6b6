"""Sampling: the distribution of Hugging Face's processors, drawn with the request's own seed."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from slm_kv.errors import InvalidLogits, KVError
from slm_kv.sampling.logprobs import prompt_logprobs
from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.sampler import TokenSampler
from slm_kv.sampling.scores import likeliest

inf, nan = float("inf"), float("nan")
ties = st.sampled_from([-inf, -3.0, 0.0, 1.0, 1.5])
# torch sorts rows of up to 16 numbers stably, so that the order of equal tokens is known
rows = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=16) | st.lists(ties, min_size=2, max_size=16)
truncation_options = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.05, 50),
        "top_k": st.integers(0, 18),
        "top_p": st.just(1.0) | st.floats(0.01, 0.9999),
        "min_p": st.just(0.0) | st.floats(0.001, 0.999),
        "repetition_penalty": st.just(1.0) | st.floats(0.3, 3),
    }
)


def sampler(prompt_ids: list[int] | None = None, size: int = 50, **params: Any) -> TokenSampler:
    return TokenSampler(SamplingParams(**params), prompt_ids or [], size)


def hugging_face(logits: Tensor, prompt_ids: list[int], params: SamplingParams, nudge: float = 0) -> Tensor:
    """The distribution of Hugging Face's processors in float64, with their bounds moved a little by ``nudge``."""
    steps: list[Any] = [RepetitionPenaltyLogitsProcessor(params.repetition_penalty)] if prompt_ids else []
    steps.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        steps.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        steps.append(TopPLogitsWarper(params.top_p + nudge))
    if params.min_p > 0:
        steps.append(MinPLogitsWarper(params.min_p + nudge))
    ids = torch.tensor([prompt_ids], dtype=torch.int64)
    return LogitsProcessorList(steps)(ids, logits.double()[None]).softmax(-1)[0]


def assert_same_as_hugging_face(logits: Tensor, prompt_ids: list[int], options: dict[str, Any]) -> None:
    params = SamplingParams(**options)
    expected = hugging_face(logits, prompt_ids, params)
    actual = TokenSampler(params, prompt_ids, len(logits)).distribution(logits)
    assert torch.equal(actual > 0, expected > 0)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=300, deadline=None)
@given(rows, truncation_options, st.data())
def test_the_distribution_is_that_of_hugging_face(
    row: list[float], options: dict[str, Any], data: st.DataObject
) -> None:
    logits = torch.tensor(row)
    assume(logits.max() > -inf)
    prompt_ids = data.draw(st.lists(st.integers(0, len(row) - 1), max_size=8))
    params = SamplingParams(**options)
    below, above = (hugging_face(logits, prompt_ids, params, nudge) for nudge in (-1e-9, 1e-9))
    assume(torch.equal(below, above))  # exactly at a bound the last bit decides
    assert_same_as_hugging_face(logits, prompt_ids, options)


@pytest.mark.parametrize("spread", [0.01, 1.0, 8.0])
@pytest.mark.parametrize(
    "options",
    [{"top_p": p} for p in (0.001, 0.5, 0.9, 0.9999)] + [{"top_k": 50}, {"top_k": 600, "top_p": 0.9, "min_p": 0.01}],
)
def test_the_distribution_over_a_large_vocabulary_is_that_of_hugging_face(
    spread: float, options: dict[str, Any]
) -> None:
    logits = torch.randn(20_000, generator=torch.Generator().manual_seed(1)) * spread
    assert_same_as_hugging_face(logits, [5, 7, 7], {"temperature": 0.8, "repetition_penalty": 1.3, **options})


@pytest.mark.parametrize("options", [{"top_p": 0.6}, {"top_k": 3}, {"min_p": 1.0}, {"top_k": 3, "top_p": 0.703}])
@pytest.mark.parametrize("size", [6, 300, 10_000])
def test_as_many_of_equal_tokens_are_kept_as_by_hugging_face(size: int, options: dict[str, Any]) -> None:
    logits = torch.zeros(size)
    logits[1::3] = -4
    expected = hugging_face(logits, [], SamplingParams(**options))
    actual = sampler(**options).distribution(logits)
    assert (actual > 0).sum() == (expected > 0).sum()
    # if not all fit, the highest ids are kept; Hugging Face keeps any in rows too long for a stable sort
    assert size > 6 or torch.equal(actual > 0, expected > 0)
    torch.testing.assert_close(actual.sort().values, expected.sort().values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 3.0}])
def test_each_token_inverts_the_distribution_at_one_random_number(options: dict[str, Any]) -> None:
    token_sampler, numbers = sampler(seed=11, **options), random.Random(11)
    for row in torch.randn(200, 50, generator=torch.Generator().manual_seed(2)):
        cumulative = token_sampler.distribution(row).cumsum(0)
        assert token_sampler.sample(row).token_id == int((cumulative <= numbers.random()).sum())


def test_token_frequencies_match_the_distribution() -> None:
    token_sampler, logits, draws = sampler(seed=3, top_k=4), torch.tensor([0.0, 1, -1, 2, 0.5, -inf]), 8_000
    counts = Counter(token_sampler.sample(logits).token_id for _ in range(draws))
    for token, probability in enumerate(token_sampler.distribution(logits).tolist()):
        spread = (draws * probability * (1 - probability)) ** 0.5
        assert abs(counts[token] - draws * probability) <= 5 * spread


def test_the_same_seed_gives_the_same_tokens() -> None:
    rows_TV = torch.randn(50, 40, generator=torch.Generator().manual_seed(4))

    def run(seed: int | None) -> tuple[int, list[int]]:
        token_sampler = sampler(seed=seed, presence_penalty=0.5)
        torch.manual_seed(random.randrange(100))  # must have no effect
        return token_sampler.seed, [token_sampler.sample(row).token_id for row in rows_TV]

    assert run(7) == run(7)
    seed, tokens = run(None)
    assert run(seed) == (seed, tokens)
    assert run(None)[1] != tokens


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}])
@pytest.mark.parametrize("temperature", [1e-8, 1e-300, 5e-324])
def test_a_tiny_temperature_takes_the_likeliest_token(temperature: float, options: dict[str, Any]) -> None:
    logits = torch.tensor([-3e38, 2.0, 2.0001, -inf, 1e-30])
    assert sampler(temperature=temperature, **options).distribution(logits).tolist() == [0, 0, 1, 0, 0]


def test_openais_penalties_count_the_output_but_not_the_prompt() -> None:
    token_sampler = sampler([0, 0, 1], temperature=0, presence_penalty=1.0, frequency_penalty=0.5)
    logits = torch.tensor([5.0, 4.6, 3.1, 0.0])
    # token 0 scores 5.0, then 3.5 and 3.0; token 1, once sampled, 3.1; token 2 1.6
    assert [token_sampler.sample(logits).token_id for _ in range(5)] == [0, 1, 0, 1, 2]


def test_the_repetition_penalty_covers_prompt_and_output_and_handles_both_signs() -> None:
    token_sampler, logits = sampler([0, 1], repetition_penalty=2.0), torch.tensor([2.0, -1.0, 1.0, -3.0])
    token_sampler.record(3)
    expected = torch.tensor([1.0, -2.0, 1.0, -6.0]).double().softmax(0)
    torch.testing.assert_close(token_sampler.distribution(logits), expected)
    assert logits.tolist() == [2.0, -1.0, 1.0, -3.0]


@pytest.mark.parametrize("penalty", [1e-308, 1e308])
def test_extreme_penalties_do_not_overflow(penalty: float) -> None:
    probabilities = sampler([0, 1], repetition_penalty=penalty).distribution(torch.tensor([9.0, -9.0, 0.0]))
    assert probabilities.isfinite().all()
    assert probabilities.sum() == pytest.approx(1)


def test_logprobs_are_those_of_the_raw_logits() -> None:
    logits = torch.tensor([0.0, 3.0, 1.0, 3.0, -1.0])
    raw = logits.log_softmax(0).tolist()
    sampled = sampler([1], temperature=0, repetition_penalty=100.0, logprobs=3).sample(logits)
    assert sampled.token_id == 3
    assert sampled.logprob == pytest.approx(raw[3], abs=1e-6)
    assert [token for token, _ in sampled.top] == [1, 3, 2]
    assert [logprob for _, logprob in sampled.top] == pytest.approx([raw[1], raw[3], raw[2]], abs=1e-6)
    alone = sampler(temperature=0, logprobs=0).sample(logits)
    assert (alone.token_id, alone.top) == (1, ())
    assert alone.logprob == pytest.approx(raw[1], abs=1e-6)
    assert sampler(temperature=0).sample(logits).logprob is None


def test_prompt_logprobs_describe_the_token_after_each_row() -> None:
    logits_TV = torch.randn(3, 10, generator=torch.Generator().manual_seed(5))
    sampled = prompt_logprobs(logits_TV, [4, 0, 2], 1)
    assert [token.token_id for token in sampled] == [4, 0, 2]
    for token, row in zip(sampled, logits_TV.log_softmax(-1), strict=True):
        assert token.logprob == pytest.approx(float(row[token.token_id]), abs=1e-6)
        assert token.top == ((int(row.argmax()), pytest.approx(float(row.max()), abs=1e-6)),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_equals_sampling_from_one_token_and_takes_the_first_of_equal_ones(dtype: torch.dtype) -> None:
    logits_NV = torch.randn(7, 33, generator=torch.Generator().manual_seed(6)).to(dtype)
    logits_NV[3] = 1
    assert [likeliest(row) for row in logits_NV] == [max(range(33), key=row.tolist().__getitem__) for row in logits_NV]
    assert likeliest(logits_NV[3]) == 0
    for row in logits_NV[:3]:
        assert likeliest(row) == sampler(temperature=0).sample(row).token_id == sampler(top_p=1e-9).sample(row).token_id


@pytest.mark.parametrize("options", [{"temperature": 0}, {}, {"top_k": 2}, {"top_p": 0.5}, {"repetition_penalty": 2.0}])
@pytest.mark.parametrize("row", [[0, nan, 1], [inf, 0, 1], [-inf, -inf, -inf], [nan, nan, nan]])
def test_invalid_logits_are_an_error(row: list[float], options: dict[str, Any]) -> None:
    logits = torch.tensor(row, dtype=torch.float32)
    with pytest.raises(InvalidLogits, match=r"the model gave (NaN logits|-?inf as its largest logit)"):
        sampler([0, 1], **options).sample(logits)
    with pytest.raises(InvalidLogits, match="the model gave"):
        likeliest(logits)
    with pytest.raises(InvalidLogits, match="the model gave"):
        prompt_logprobs(logits[None], [1], 0)


@pytest.mark.parametrize(
    ("name", "values", "advice"),
    [
        ("max_new_tokens", [0, -1, True, "9", 1.5, None], "a whole number of at least 1"),
        ("temperature", [-0.1, inf, nan, "hot", True, None, 10**400], "a finite number of at least 0"),
        ("top_k", [-1, 2.0, "5", False], "a whole number of at least 0"),
        ("top_p", [0, 0.0, -1, 1.01, nan, "1", True], "a number above 0 and at most 1"),
        ("min_p", [-0.1, 1.1, nan, "0"], "a number from 0 to 1"),
        ("repetition_penalty", [0, -1, inf, nan, "1"], "a finite number above 0"),
        ("presence_penalty", [-2.1, 2.1, nan, "1", True], "a number from -2 to 2"),
        ("frequency_penalty", [-2.1, 2.1, nan, "1", True], "a number from -2 to 2"),
        ("seed", [1.0, "1", True], "a whole number, or None"),
        ("stop", ["", ["a", ""], [1], None, 5], "a non-empty string"),
        ("stop_token_ids", [["1"], [True], 5, "12"], "a list of token ids"),
        ("ignore_eos", [1, "yes", None], "True or False"),
        ("logprobs", [-1, 21, True, "1"], "a whole number from 0 to 20"),
        ("prompt_logprobs", [-1, 21, True, "1"], "a whole number from 0 to 20"),
    ],
)
def test_a_value_out_of_range_is_refused_with_advice(name: str, values: list[Any], advice: str) -> None:
    for value in values:
        with pytest.raises(KVError) as error:
            SamplingParams(**{name: value})
        assert str(error.value).startswith(f"{name}={value!r} is out of range: give {advice}")


def test_stop_is_one_string_or_several() -> None:
    assert SamplingParams(stop="ab").stop == ("ab",)
    params = SamplingParams(stop=["a", "b"], stop_token_ids=[3])
    assert (params.stop, params.stop_token_ids) == (("a", "b"), (3,))
    assert hash(params) == hash(SamplingParams(stop=("a", "b"), stop_token_ids=(3,)))


def test_logits_of_any_dtype_and_with_gradients_are_accepted() -> None:
    row = torch.randn(30, generator=torch.Generator().manual_seed(8)).requires_grad_()
    half = row.to(torch.bfloat16)
    assert sampler(temperature=0).sample(row).token_id == int(np.argmax(row.detach().numpy()))
    assert sampler(temperature=0).sample(half).token_id == int(half.float().argmax())
