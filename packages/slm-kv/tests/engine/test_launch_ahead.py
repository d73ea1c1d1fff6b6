"""The next step is launched before the tokens of a step are decoded, as on a GPU: nothing but the order changes."""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from slm_kv import Engine, Grammar, Handle, SamplingParams
from slm_kv.engine import engine as engine_module
from slm_kv.engine.context_limits import OnFull
from slm_kv.engine.step.device_results import device_results
from slm_kv.engine.step.step_results import host_results
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.kv.small_tokenizers import characters
from slm_testing.kv.tiny_models import GROUPED_HEADS, SIZES, greedy_params, make_model, randomize, run_to_end

TOKENIZER = characters()
torch.manual_seed(3)
MODEL = randomize(LlamaForCausalLM(LlamaConfig(**(SIZES | {"vocab_size": len(TOKENIZER)}), **GROUPED_HEADS)).eval())
REPEATED = "abcabcabcab"  # continued by drafts
PROMPTS = ["the cat", "on the mat", REPEATED, "x", "the cat sat on a mat"]
CHARACTERS = st.characters(min_codepoint=32, max_codepoint=126)
requests = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(PROMPTS),
        "use_cache": st.sampled_from((True, True, True, False)),
        "max_new_tokens": st.integers(1, 12),
        "min_new_tokens": st.sampled_from((0, 0, 3)),
        "temperature": st.sampled_from((0, 0.3, 1.0)),
        "seed": st.integers(0, 9),
        # Any character ends many texts; two or three hold some of a text back.
        "stop": st.lists(st.text(CHARACTERS, min_size=1, max_size=2), max_size=9),
        "stop_token_ids": st.lists(st.integers(0, 90), max_size=4).map(tuple),
        "ignore_eos": st.booleans(),
        "logprobs": st.sampled_from((None, None, 2)),
        "prompt_logprobs": st.sampled_from((None, None, 1)),
        "repetition_penalty": st.sampled_from((1.0, 1.0, 1.3)),
        "grammar": st.sampled_from((None, None, None, Grammar("regex", "[a-c]{2,4}!"))),
    }
)


# So few pages that sequences are preempted, and reach the limit.
OPTIONS: list[dict[str, Any]] = [
    {"page_size": 2, "max_pages": 18, "speculate": "off", "on_full": "stop"},
    {"page_size": 5, "max_pages": 8, "speculate": "auto", "on_full": "refuse"},
    {"page_size": 5, "max_pages": 7, "speculate": "off", "on_full": "window"},
    {"page_size": 2, "max_pages": 17, "speculate": "auto", "on_full": "error"},
]


@cache
def shared_engine(options: int, ahead: bool) -> Engine:
    engine = Engine(deepcopy(MODEL), TOKENIZER, max_step_tokens=9, max_sequences=3, **OPTIONS[options])
    engine._launches_ahead = ahead
    return engine


def run(engine: Engine, events: list[Any], on_device: bool) -> tuple[list[Handle], list[list[Any]]]:
    """Submit requests, with steps between them, and return their handles and updates."""
    updates: defaultdict[int, list[Any]] = defaultdict(list)
    engine.pool.clear_cache()
    engine._results = device_results if on_device else host_results
    handles = []
    for event in [*events, 10**6]:
        if not isinstance(event, int):
            params = {name: value for name, value in event.items() if name not in ("prompt", "use_cache")}
            handles.append(engine.submit(event["prompt"], SamplingParams(**params), use_cache=event["use_cache"]))
            continue
        while engine.busy and event:
            for update in engine.step():
                updates[update.handle.id].append((update.text, update.token_ids, update.finished))
            engine.pool.check_integrity()
            event -= 1
    assert (engine.pool.used_pages, engine.pool.filled_slots, engine.scheduler.running) == (0, 0, [])
    return handles, [updates[handle.id] for handle in handles]


def answer(handle: Handle) -> tuple[Any, ...]:
    return (handle.token_ids, handle.text, handle.finish_reason, handle.logprobs, handle.prompt_logprobs, handle.error)


@given(st.lists(requests | st.integers(1, 4), min_size=1, max_size=8), st.sampled_from(range(4)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_all_texts_updates_and_reasons_are_the_same(events: list[Any], options: int, on_device: bool) -> None:
    handles, updates = run(shared_engine(options, False), events, on_device)
    ahead, updates_ahead = run(shared_engine(options, True), events, on_device)
    assert [answer(handle) for handle in ahead] == [answer(handle) for handle in handles]
    if OPTIONS[options]["speculate"] == "off":  # the length of drafts depends on the time
        assert updates_ahead == updates
    assert [joined(each) for each in updates_ahead] == [joined(each) for each in updates]


def joined(updates: list[Any]) -> tuple[str, list[int], int]:
    """The text and the tokens of updates, and how many of them said that the request has ended."""
    return "".join(text for text, *_ in updates), [*chain(*(ids for _, ids, _ in updates))], sum(u[2] for u in updates)


def record(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []

    def recording(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            events.append(name)
            return function(*arguments)

        return call

    for name in ("launch", "take_result", "decode_token"):
        monkeypatch.setattr(engine_module, name, recording(name, getattr(engine_module, name)))
    return events


@pytest.mark.parametrize("ahead", [True, False])
def test_a_step_is_launched_before_the_tokens_of_the_one_before_are_decoded(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = record(monkeypatch)
    with Engine(MODEL, TOKENIZER, page_size=4, max_pages=40, speculate="off") as engine:
        engine._launches_ahead = ahead
        for prompt in PROMPTS[:2]:
            engine.submit(prompt, greedy_params(3))
        run_to_end(engine)
    launch, take, decode = ["launch"], ["take_result"] * 2, ["decode_token"] * 2
    step = [*take, *launch, *decode] if ahead else [*launch, *take, *decode]
    assert events == ([*launch, *step, *step, *take, *decode] if ahead else step * 3)


def stopping_engine() -> tuple[Engine, Handle]:
    """An engine whose only request ends by a stop string, after which its next token was launched."""
    engine = Engine(MODEL, TOKENIZER, page_size=4, max_pages=40, speculate="off")
    (whole,) = engine.generate(PROMPTS[:1], greedy_params(4))
    engine._launches_ahead = True
    handle = engine.submit(PROMPTS[0], greedy_params(9, stop=(whole.text[2],)))
    return engine, handle


def test_what_was_launched_for_a_text_that_a_stop_string_ended_is_dropped() -> None:
    engine, handle = stopping_engine()
    with engine:
        while not handle.finished:
            engine.step()
        assert handle.finish_reason == "stop"
        assert engine._launched is not None
        assert (engine.busy, engine.pool.used_pages) == (False, 0)
        engine.pool.check_integrity()
        other = engine.submit(PROMPTS[1], greedy_params(1))
        assert [update.handle for update in engine.step()] == [other]  # not a step in vain
        assert engine.step() == []


def test_a_request_that_is_cancelled_after_its_launch_gets_no_token() -> None:
    with Engine(MODEL, TOKENIZER, page_size=4, max_pages=40, speculate="off") as engine:
        expected = [handle.token_ids for handle in engine.generate(PROMPTS[:2], greedy_params(6))]
        engine._launches_ahead = True
        cancelled, other = (engine.submit(prompt, greedy_params(6)) for prompt in PROMPTS[:2])
        engine.step()
        tokens = list(cancelled.token_ids)
        assert engine.cancel(cancelled)
        later = engine.submit(PROMPTS[0], greedy_params(6))  # it may get the pages that are still written to
        run_to_end(engine)
    assert cancelled.token_ids == tokens
    assert [later.token_ids, other.token_ids] == expected


def test_a_step_that_was_launched_with_other_weights_is_computed_again() -> None:
    def generate(ahead: bool) -> list[int]:
        model = make_model("gpt2")
        with Engine(model, page_size=4, max_pages=40, packed=False) as engine:
            engine._launches_ahead = ahead
            handle = engine.submit([5, 6, 7], greedy_params(8))
            while len(handle.token_ids) < 3:
                engine.step()
            with torch.no_grad():
                model.transformer.ln_f.weight.neg_()
            engine.weights_changed()
            run_to_end(engine)
        return handle.token_ids

    assert generate(True) == generate(False)


def test_adapters_embeddings_and_scores_are_the_same() -> None:
    def generate(ahead: bool) -> list[Any]:
        with Engine(make_lora_model(), page_size=4, max_pages=60, max_step_tokens=7, max_sequences=4) as engine:
            engine._launches_ahead = ahead
            names = ["red", "blue", "__base__"]
            texts = [engine.submit([4, 5, 6, 7], greedy_params(5), adapter=name) for name in names]
            scores = [engine.submit_scoring([4, 5, 6, 7], [8, 9, 10], adapter=name) for name in names]
            embeddings = [engine.submit_embedding(list(range(3, 20)), adapter=name) for name in names]
            engine.step()
            engine.remove_adapter("red")
            run_to_end(engine)
            assert engine.adapters.names == ("blue",)
        found = [handle.embedding.tolist() for handle in embeddings if handle.embedding is not None]
        return [*(handle.token_ids for handle in texts), *(handle.scores for handle in scores), *found]

    assert generate(True) == generate(False)


def test_a_failing_model_ends_its_request_after_the_tokens_before() -> None:
    """The step that fails was launched ahead: the token of the step before is decoded first."""
    model: Any = make_model("llama")
    forward, fails = model.forward, [False]

    def failing(*arguments: Any, **options: Any) -> Any:
        if fails[0]:
            raise RuntimeError("out of order")
        return forward(*arguments, **options)

    with Engine(model, page_size=4, max_pages=40, packed=False, speculate="off") as engine:
        engine._runner.step, engine._launches_ahead = None, True
        model.forward = failing
        handle = engine.submit([9, 5], greedy_params(5))
        updates = []
        while engine.busy:
            updates += [(update.token_ids, update.finished) for update in engine.step()]
            fails[0] = True
    assert (handle.finish_reason, handle.error) == ("error", "out of order")
    assert updates == [((handle.token_ids[0],), False), ((handle.token_ids[1],), False), ((), True)]


@pytest.mark.parametrize("on_full", ["stop", "error", "window"])
def test_the_last_token_before_a_limit_is_decoded_before_the_text_ends(on_full: OnFull) -> None:
    answers = []
    for ahead in (False, True):
        with Engine(MODEL, TOKENIZER, page_size=2, max_pages=8, on_full=on_full, speculate="off") as engine:
            engine._launches_ahead = ahead
            handle, updates = engine.submit("the cat", greedy_params(20, stop=("long text",))), []
            while engine.busy:
                updates += [(update.text, update.token_ids, update.finished) for update in engine.step()]
        assert [token for _, ids, _ in updates for token in ids] == handle.token_ids
        assert "".join(text for text, *_ in updates) == handle.text == TOKENIZER.decode(handle.token_ids)
        answers.append((*answer(handle), updates, handle.slides))
    assert answers[0] == answers[1]
    assert answers[0][2] == {"stop": "length", "error": "error", "window": "length"}[on_full]
