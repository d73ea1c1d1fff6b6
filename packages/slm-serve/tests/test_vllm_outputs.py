"""What is asked of vLLM for a request, and what its outputs are made into."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import sample_base
from slm_kv import SampledToken as Choice
from slm_kv import SamplingParams
from slm_serve.backends.protocol import Job
from slm_serve.backends.vllm.outputs import Continuation, sampling_arguments
from slm_serve.errors import ModelFailed

VOCABULARY, END = 2048, 1
TOKENIZER = AutoTokenizer.from_pretrained(sample_base())
TEXT = TOKENIZER(" there was a little girl", add_special_tokens=False)["input_ids"]


def job(**params: Any) -> Job:
    return Job((5, 6), SamplingParams(**{"temperature": 0, "max_new_tokens": 4, **params}), "base")


def output(tokens: list[int], reason: str | None = None, rows: Any = None, prompt_rows: Any = None) -> Any:
    new = SimpleNamespace(token_ids=tokens, finish_reason=reason, logprobs=rows)
    return SimpleNamespace(outputs=[new], prompt_logprobs=prompt_rows)


def test_every_setting_of_a_request_reaches_vllm() -> None:
    params = SamplingParams(
        max_new_tokens=9, min_new_tokens=2, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.2,
        presence_penalty=0.3, frequency_penalty=0.4, seed=-1, stop_token_ids=(7, 5000), logprobs=2, prompt_logprobs=0,
    )  # fmt: skip
    found = sampling_arguments(params, {END}, VOCABULARY)
    assert found == {
        "max_tokens": 9, "min_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
        "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.4, "seed": 2**63 - 1,
        "stop_token_ids": [END, 7], "ignore_eos": True, "logprobs": 2, "prompt_logprobs": 0, "detokenize": False,
    }  # fmt: skip


def test_what_vllm_would_stumble_over_is_brought_into_its_ranges() -> None:
    params = SamplingParams(max_new_tokens=3, min_new_tokens=8, top_k=10**9, ignore_eos=True)
    found = sampling_arguments(params, {END}, VOCABULARY)
    assert (found["min_tokens"], found["top_k"], found["stop_token_ids"], found["seed"]) == (3, VOCABULARY, [], None)


def rows(*places: dict[int, float]) -> list[dict[int, Any]]:
    return [{token: SimpleNamespace(logprob=value) for token, value in place.items()} for place in places]


def test_log_probabilities_are_those_of_slm_kv() -> None:
    asked = job(logprobs=2, prompt_logprobs=1, max_new_tokens=1)
    given = output([9], "length", rows({9: -4.0, 3: -0.5, 8: -1.0}), [None, *rows({6: -2.0, 4: -0.1})])
    piece = Continuation(asked, {END}, TOKENIZER).take(given)
    assert piece.logprobs == [Choice(9, -4.0, ((3, -0.5), (8, -1.0)))]
    assert piece.prompt_logprobs == [Choice(6, -2.0, ((4, -0.1),))]


def test_scores_that_are_no_numbers_are_a_failure_of_the_model() -> None:
    asked = job(logprobs=0)
    with pytest.raises(ModelFailed, match="try float32"):
        Continuation(asked, {END}, TOKENIZER).take(output([9], None, rows({9: float("nan")})))


def test_no_text_stops_before_its_least_number_of_tokens() -> None:
    text = Continuation(job(max_new_tokens=9, min_new_tokens=4, stop=(" was",)), {END}, TOKENIZER)
    found = [text.take(output([token])) for token in TEXT]
    assert not any(piece.finish_reason for piece in found)


def test_the_end_of_the_positions_is_a_length() -> None:
    assert Continuation(job(), {END}, TOKENIZER).take(output([9], "length")).finish_reason == "length"
