"""Arguments of a request for vLLM, and the conversion of its outputs."""

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from slm_data import sample_base
from slm_kv import Grammar, SampledToken, SamplingParams
from slm_serve import Job
from slm_serve.backends.vllm.outputs import OutputDecoder
from slm_serve.backends.vllm.sampling import sampling_arguments
from slm_serve.errors import ModelFailedError

VOCABULARY, END = 2048, 1
TOKENIZER = AutoTokenizer.from_pretrained(sample_base())
TEXT = TOKENIZER(" there was a little girl", add_special_tokens=False)["input_ids"]


def job(**params: Any) -> Job:
    return Job((5, 6), SamplingParams(**{"temperature": 0, "max_new_tokens": 4, **params}), "base")


def output(tokens: list[int], reason: str | None = None, logprobs: Any = None, prompt_logprobs: Any = None) -> Any:
    completion = SimpleNamespace(token_ids=tokens, finish_reason=reason, logprobs=logprobs)
    return SimpleNamespace(outputs=[completion], prompt_logprobs=prompt_logprobs)


def test_every_parameter_of_a_request_is_passed_to_vllm() -> None:
    params = SamplingParams(
        max_new_tokens=9, min_new_tokens=2, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.2,
        presence_penalty=0.3, frequency_penalty=0.4, seed=-1, stop_token_ids=(7, 5000), logprobs=2, prompt_logprobs=0,
        logit_bias=((3, -100), (4, 2.5)), grammar=Grammar("json_object"),
    )  # fmt: skip
    assert sampling_arguments(params, {END}, VOCABULARY) == {
        "max_tokens": 9, "min_tokens": 2, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
        "repetition_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.4, "seed": 2**63 - 1,
        "stop_token_ids": [END, 7], "ignore_eos": True, "logprobs": 2, "prompt_logprobs": 0, "detokenize": False,
        "logit_bias": {3: -100, 4: 2.5}, "structured_outputs": {"json_object": True},
    }  # fmt: skip


def test_parameters_outside_the_ranges_of_vllm_are_clamped() -> None:
    params = SamplingParams(max_new_tokens=3, min_new_tokens=8, top_k=10**9, ignore_eos=True)
    arguments = sampling_arguments(params, {END}, VOCABULARY)
    clamped = [arguments[name] for name in ("min_tokens", "top_k", "stop_token_ids", "seed")]
    assert clamped == [3, VOCABULARY, [], None]


@pytest.mark.parametrize(
    ("grammar", "arguments"),
    [
        (Grammar.from_schema({"type": "integer", "x-guidance": {"lenient": True}}), {"json": {"type": "integer"}}),
        (Grammar.from_schema(True), {"json": {}}),
        (Grammar("regex", "a+"), {"regex": "a+"}),
        (Grammar.from_choices(["yes", "no"]), {"choice": ["yes", "no"]}),
        (Grammar("lark", 'start: "a"'), {"grammar": 'start: "a"'}),
    ],
)
def test_grammars_are_passed_to_vllm_and_end_with_its_end_token(grammar: Grammar, arguments: dict[str, Any]) -> None:
    passed = sampling_arguments(SamplingParams(grammar=grammar, ignore_eos=True), {END}, VOCABULARY)
    assert passed["structured_outputs"] == arguments
    assert passed["stop_token_ids"] == [END]


def vllm_logprobs(*positions: dict[int, float]) -> list[dict[int, Any]]:
    return [{token: SimpleNamespace(logprob=value) for token, value in position.items()} for position in positions]


def test_log_probabilities_have_the_form_of_slm_kv() -> None:
    request = job(logprobs=2, prompt_logprobs=1, max_new_tokens=1)
    vllm_output = output(
        [9], "length", vllm_logprobs({9: -4.0, 3: -0.5, 8: -1.0}), [None, *vllm_logprobs({6: -2.0, 4: -0.1})]
    )
    piece = OutputDecoder(request, {END}, TOKENIZER).decode(vllm_output)
    assert piece.logprobs == [SampledToken(9, -4.0, ((3, -0.5), (8, -1.0)))]
    assert piece.prompt_logprobs == [SampledToken(6, -2.0, ((4, -0.1),))]


def test_scores_that_are_not_numbers_are_a_failure_of_the_model() -> None:
    decoder = OutputDecoder(job(logprobs=0), {END}, TOKENIZER)
    with pytest.raises(ModelFailedError, match="check its weights, or try dtype float32"):
        decoder.decode(output([9], None, vllm_logprobs({9: float("nan")})))


def test_no_text_stops_before_its_minimum_number_of_tokens() -> None:
    decoder = OutputDecoder(job(max_new_tokens=9, min_new_tokens=4, stop=(" was",)), {END}, TOKENIZER)
    pieces = [decoder.decode(output([token])) for token in TEXT]
    assert not any(piece.finish_reason for piece in pieces)


def test_the_end_of_the_context_is_a_length_stop() -> None:
    assert OutputDecoder(job(), {END}, TOKENIZER).decode(output([9], "length")).finish_reason == "length"
