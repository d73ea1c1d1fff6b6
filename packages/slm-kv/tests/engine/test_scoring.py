"""Scores of continuations: the model's own log-softmax, with the pages of shared contexts."""

from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from slm_kv import Engine, InvalidLogits, KVError, TextEngine, TransformersEngine
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.kv.other_models import make_other_model
from slm_testing.kv.tiny_models import (
    MODEL_FACTORIES,
    greedy_params,
    greedy_tokens,
    make_model,
    random_prompts,
    run_to_end,
)
from slm_testing.kv.windowed_models import make_windowed_model

CONTEXTS = [*random_prompts(4, longest=40, seed=3), [5]]
CONTINUATIONS = [[7], [8, 9, 10], *random_prompts(2, longest=30, seed=4)]
PAIRS = [(context, continuation) for context in CONTEXTS for continuation in CONTINUATIONS]


@torch.no_grad()
def expected(model: Any, context: list[int], continuation: list[int]) -> torch.Tensor:
    logits_TV = model(torch.tensor([context + continuation])).logits[0].double()
    logprobs_CV = logits_TV.log_softmax(-1)[len(context) - 1 : -1]
    return logprobs_CV.gather(1, torch.tensor(continuation)[:, None])[:, 0].float()


def make_engine(kind: str, model: PreTrainedModel) -> TextEngine:
    if kind == "paged":
        return Engine(model, page_size=4, max_pages=80, max_step_tokens=32)
    return TransformersEngine(model)


def assert_scores(engine: TextEngine, pairs: list[Any], wanted: list[torch.Tensor], adapter: str | None = None) -> None:
    handles = [engine.submit_scoring(*pair, adapter=adapter) for pair in pairs]
    while engine.busy:
        engine.step()
    for handle, logprobs in zip(handles, wanted, strict=True):
        actual = torch.tensor([score.logprob for score in handle.scores])
        torch.testing.assert_close(actual, logprobs, rtol=0, atol=1e-5)
        assert (handle.finish_reason, handle.text, handle.token_ids) == ("stop", "", [])


@pytest.mark.parametrize("kind", ["paged", "transformers"])
@pytest.mark.parametrize("name", [*MODEL_FACTORIES, "opt"])
def test_scores_are_the_models_log_softmax(kind: str, name: str) -> None:
    model = make_model(name)
    wanted = [expected(model, *pair) for pair in PAIRS]
    with make_engine(kind, model) as engine:
        assert_scores(engine, PAIRS, wanted)
        assert_scores(engine, PAIRS, wanted)  # from cached pages
        assert engine.load().pages_used == 0


@pytest.mark.parametrize("name", ["mamba", "bloom"])
def test_models_without_pages_give_theirs_through_transformers(name: str) -> None:
    model = make_other_model(name)
    with TransformersEngine(model) as engine:
        assert_scores(engine, PAIRS, [expected(model, *pair) for pair in PAIRS])


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_sliding_windows_do_not_matter(name: str) -> None:
    model = make_windowed_model(name)
    wanted = [expected(model, *pair) for pair in PAIRS]
    with Engine(model, page_size=4, max_pages=80, max_step_tokens=8, max_sequences=4) as engine:
        assert_scores(engine, PAIRS, wanted)


@pytest.mark.parametrize("kind", ["paged", "transformers"])
def test_each_adapter_and_the_base_have_their_own(kind: str) -> None:
    model: Any = make_lora_model()
    wanted = {}
    for name in ("red", "blue"):
        model.set_adapter(name)
        wanted[name] = [expected(model, *pair) for pair in PAIRS]
    with model.disable_adapter():
        wanted["__base__"] = [expected(model, *pair) for pair in PAIRS]
    model.set_adapter("red")
    with make_engine(kind, model) as engine:
        for name, logprobs in wanted.items():
            assert_scores(engine, PAIRS, logprobs, name)


def test_greedy_says_whether_the_model_would_write_the_token() -> None:
    model = make_model("llama")
    context = CONTEXTS[0]
    greedy = greedy_tokens(model, context, 3)
    with Engine(model, page_size=4, max_pages=80) as engine:
        handles = [engine.submit_scoring(context, ids) for ids in (greedy, [greedy[0], greedy[1] ^ 1])]
        run_to_end(engine)
    assert [[score.greedy for score in handle.scores] for handle in handles] == [[True] * 3, [True, False]]


def test_choices_of_a_question_share_the_pages_of_its_context() -> None:
    context = [3 + index % 80 for index in range(38)]
    with Engine(make_model("llama"), page_size=4, max_pages=80) as engine:
        handles = [engine.submit_scoring(context, [choice, 4, 5]) for choice in range(8)]
        run_to_end(engine)
    assert [handle.reused_tokens for handle in handles] == [0] + [36] * 7


def test_a_prefix_that_reaches_into_the_continuation_is_not_reused() -> None:
    text = [3 + index % 80 for index in range(40)]
    with Engine(make_model("llama"), page_size=4, max_pages=80) as engine:
        engine.generate([text], greedy_params(2))
        handle = engine.submit_scoring(text[:10], text[10:])
        run_to_end(engine)
    assert (handle.reused_tokens, len(handle.scores)) == (8, 30)


def test_texts_are_written_beside_scores_and_scores_survive_preemption() -> None:
    model = make_model("gpt2")
    prompt = CONTEXTS[0]
    text, wanted = greedy_tokens(model, prompt, 12), [expected(model, *pair) for pair in PAIRS]
    with Engine(model, page_size=4, max_pages=24, max_step_tokens=16, max_sequences=8) as engine:
        written = engine.submit(prompt, greedy_params(12))
        assert_scores(engine, PAIRS, wanted)
        assert written.token_ids == text


def test_a_request_that_cannot_be_scored_is_refused_in_one_sentence() -> None:
    with Engine(make_model("llama"), page_size=4, max_pages=4) as engine:
        for context, continuation, message in (
            ([1], [], "the continuation is empty"),
            ([], [1], "the prompt is empty"),
            ([1] * 10, [1] * 8, "the prompt has 17 tokens"),
            ([1], [-1], "token id -1 is outside"),
        ):
            with pytest.raises(KVError, match=message):
                engine.submit_scoring(context, continuation)
        assert not engine.busy
        engine.submit_scoring([1] * 10, [1] * 7)
        run_to_end(engine)


def test_nan_ends_the_request_with_an_error() -> None:
    model = make_model("llama")
    with torch.no_grad(), Engine(model, page_size=4, max_pages=8, packed=False) as engine:
        model.get_input_embeddings().weight[5] = float("nan")
        bad, good = engine.submit_scoring([5, 6], [7]), engine.submit_scoring([6, 7], [8])
        run_to_end(engine)
    assert isinstance(bad.exception, InvalidLogits)
    assert (bad.finish_reason, good.finish_reason) == ("error", "stop")
