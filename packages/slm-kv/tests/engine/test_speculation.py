"""Texts with drafts are those without, for all settings; drafts take only what nobody else needs."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv import Engine, Grammar, Handle, KVError, SamplingParams
from slm_kv.engine.requests import Update
from slm_kv.sampling import speculation
from slm_kv.sampling.ngram_index import NgramIndex
from slm_kv.sampling.step_times import StepTimes
from slm_testing.kv.small_tokenizers import characters
from slm_testing.kv.tiny_models import (
    SIZES,
    greedy_params,
    greedy_tokens,
    make_model,
    random_prompts,
    randomize,
    run_to_end,
)
from slm_testing.kv.windowed_models import make_windowed_model

# Random models of a small vocabulary soon repeat themselves, which drafts foresee.
PROMPTS = [prompt * 3 for prompt in random_prompts(4, longest=6, seed=3)]
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.1, "seed": 1},
    "penalties": {"temperature": 0.1, "seed": 2, "repetition_penalty": 1.1, "frequency_penalty": 0.2},
    "likeliest": {"temperature": 0.1, "seed": 3, "top_k": 5, "top_p": 0.9, "min_p": 0.05},
    "bias": {"temperature": 0, "logit_bias": ((5, 3.0), (7, -100.0))},
    "ends": {"temperature": 0, "min_new_tokens": 9, "ignore_eos": False, "stop_token_ids": (7, 20, 40, 60)},
    "logprobs": {"temperature": 0, "logprobs": 2, "prompt_logprobs": 1},
}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draft wherever tokens repeat, however often drafts fail."""
    make_eager(monkeypatch)


def make_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StepTimes, "row_cost", lambda self, sequences: 0.02)
    monkeypatch.setattr(speculation, "FIRST_CREDIT", 1e6)
    monkeypatch.setattr(speculation, "MAX_CREDIT", 1e6)


def generate(model: Any, params: list[SamplingParams], speculate: Any, **options: Any) -> tuple[list[Handle], Any]:
    options = {"page_size": 4, "max_pages": 64, "max_step_tokens": 12, "max_sequences": 3} | options
    with Engine(model, speculate=speculate, **options) as engine:
        handles = [engine.submit(*pair) for pair in zip(PROMPTS, params, strict=False)]
        run_to_end(engine)
        assert engine.pool.used_pages == 0
        return handles, engine.load()


def answers(handles: list[Handle]) -> list[Any]:
    def numbers(tokens: Any) -> list[Any]:
        return [(token.token_id, pytest.approx(token.logprob, abs=1e-4)) for token in tokens]

    return [
        (each.token_ids, each.finish_reason, each.text, numbers(each.logprobs), numbers(each.prompt_logprobs))
        for each in handles
    ]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_texts_are_those_without_drafts(options: dict[str, Any]) -> None:
    model = make_model("gpt2", seed=1)
    params = [SamplingParams(**{"max_new_tokens": 30 + index, "ignore_eos": True} | options) for index in range(4)]
    with_drafts, load = generate(model, params, "auto")
    without, no_load = generate(model, params, "off")
    assert answers(with_drafts) == answers(without)
    assert 0 < load.accepted_tokens < load.drafted_tokens
    assert no_load.drafted_tokens == 0
    assert sum(each.speculation.accepted for each in with_drafts) == load.accepted_tokens


ENGINE_OPTIONS = st.fixed_dictionaries(
    {
        "page_size": st.sampled_from([1, 2, 5, 16]),
        "max_step_tokens": st.integers(3, 40),
        "max_sequences": st.integers(1, 3),
        "prefix_caching": st.booleans(),
        "on_full": st.sampled_from(["stop", "window", "error"]),
    }
)


def test_texts_are_those_without_drafts_in_any_pool_and_at_any_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    make_eager(monkeypatch)
    models = [make_model("llama", seed=4), make_model("gpt2", seed=4)]
    counts = speculation.SpeculationCounts()

    @given(st.data())
    @settings(max_examples=12, deadline=None)
    def check(data: st.DataObject) -> None:
        options: dict[str, Any] = data.draw(ENGINE_OPTIONS)
        tokens = data.draw(st.integers(24, 70), label="slots")
        options["max_pages"] = -(-tokens // options["page_size"])
        params = [
            SamplingParams(
                max_new_tokens=data.draw(st.integers(1, 60)),
                temperature=data.draw(st.sampled_from([0, 0.7])),
                repetition_penalty=data.draw(st.sampled_from([1.0, 1.2])),
                seed=index,
                ignore_eos=True,
            )
            for index in range(4)
        ]
        model = data.draw(st.sampled_from(models))
        # Preemption restarts a text's positions in a window, so that its time matters: one sequence after the other.
        if options["on_full"] == "window":
            options["max_sequences"] = 1
        with_drafts, load = generate(model, params, "auto", **options)
        assert answers(with_drafts) == answers(generate(model, params, "off", **options)[0])
        counts.add(load.drafted_tokens, load.accepted_tokens)

    check()
    assert 0 < counts.accepted < counts.drafted


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["mistral", "gemma3"])
@pytest.mark.parametrize("page_size", [1, 3])
def test_pages_behind_a_window_stay_until_the_rows_of_a_draft_have_read_them(name: str, page_size: int) -> None:
    model = make_windowed_model(name)
    prompt = [3 + index * 7 % 80 for index in range(12)] * 3
    expected = greedy_tokens(model, prompt, 40)
    with Engine(model, page_size=page_size, max_pages=-(-80 // page_size)) as engine:
        handles = [engine.submit(prompt, greedy_params(40)) for _ in range(2)]
        run_to_end(engine)
        assert engine.load().accepted_tokens
    assert [handle.token_ids for handle in handles] == [expected, expected]


@pytest.fixture(scope="module")
def repeating() -> Iterator[Engine]:
    """A model with a tokenizer of characters that soon repeats itself."""
    tokenizer = characters()
    torch.manual_seed(0)
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    sizes |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    with (
        Engine(randomize(GPT2LMHeadModel(GPT2Config(**sizes)).eval()), tokenizer) as engine,
        pytest.MonkeyPatch.context() as patch,
    ):
        make_eager(patch)
        yield engine


def updates(engine: Engine, params: SamplingParams, prompt: str = "the cat sat on the mat, the cat ") -> list[Update]:
    return list(engine.stream(engine.submit(prompt, params)))


def steps(engine: Engine, params: SamplingParams, speculate: bool) -> list[Update]:
    engine.scheduler.speculates = speculate
    try:
        return updates(engine, params)
    finally:
        engine.scheduler.speculates = True


@pytest.mark.parametrize("repetitions", [1, 2, 3, 5])
def test_a_stop_string_in_the_middle_of_an_accepted_draft_ends_the_text(repeating: Engine, repetitions: int) -> None:
    text = steps(repeating, greedy_params(80), speculate=False)[-1].handle.text
    stop = text[40:43]
    for end in (stop, text[41 : 41 + repetitions]):
        params = greedy_params(80, stop=(end,), min_new_tokens=8 * repetitions)
        plain, drafted = (steps(repeating, params, speculate=each)[-1].handle for each in (False, True))
        assert (drafted.text, drafted.token_ids) == (plain.text, plain.token_ids)
        assert drafted.finish_reason == plain.finish_reason == "stop"


@pytest.mark.parametrize("new", [3, 4, 20, 41, 42, 43])
def test_updates_of_several_tokens_join_to_the_text_and_end_at_max_new_tokens(repeating: Engine, new: int) -> None:
    plain = steps(repeating, greedy_params(new), speculate=False)
    drafted = steps(repeating, greedy_params(new), speculate=True)
    handle = drafted[-1].handle
    assert [token for update in drafted for token in update.token_ids] == plain[-1].handle.token_ids == handle.token_ids
    assert "".join(update.text for update in drafted) == plain[-1].handle.text
    assert [update.finished for update in drafted] == [False] * (len(drafted) - 1) + [True]
    assert len(handle.token_ids) == new
    if new >= 20:
        assert len(drafted) < len(plain)


def test_a_grammar_advances_with_accepted_tokens_only(repeating: Engine) -> None:
    grammar = Grammar("regex", r"(cat |dog ){9}end")
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_new_tokens=60, grammar=grammar, temperature=temperature, seed=3)
        plain, drafted = (steps(repeating, params, speculate=each)[-1].handle for each in (False, True))
        assert drafted.text == plain.text
        assert drafted.text.endswith("end")
        assert drafted.speculation.accepted > 0


def test_nan_logits_in_the_middle_of_a_draft_end_the_text_after_the_tokens_before(repeating: Engine) -> None:
    sampler_of: list[Any] = []
    handle = repeating.submit("the cat sat on the mat, the cat ", greedy_params(60))
    sequence = repeating._sequences[handle.id]
    sample = sequence.sampler.sample
    plan = repeating.scheduler.plan

    def planned() -> Any:
        result = plan()
        sampler_of[:] = [len(result.work[0].draft)] if result.work else [0]
        return result

    def fail_at_the_third(logits_V: torch.Tensor) -> Any:
        failing = sampler_of[0] > 2 and len(handle.token_ids) - before[0] == 2
        return sample(torch.full_like(logits_V, torch.nan) if failing else logits_V)

    scheduler: Any = repeating.scheduler
    scheduler.plan, sequence.sampler.sample = planned, fail_at_the_third
    before, received = [0], []
    while not handle.finished:
        before[0] = len(handle.token_ids)
        received += repeating.step()
    scheduler.plan = plan
    assert handle.finish_reason == "error"
    assert [token for update in received for token in update.token_ids] == handle.token_ids
    assert len(received[-2].token_ids) == 2
    assert received[-1].finished
    assert repeating.pool.used_pages == 0
    repeating.pool.check_integrity()


def test_a_prompt_that_waits_gets_all_rows_before_a_draft_gets_one() -> None:
    model = make_model("gpt2", seed=1)
    with Engine(model, page_size=4, max_pages=60, max_step_tokens=6, max_sequences=2) as engine:
        engine.submit(PROMPTS[0], greedy_params(40))
        for _ in range(9):
            engine.step()
        engine.submit(list(range(1, 30)), greedy_params(2))
        while engine.scheduler.waiting or engine.scheduler.running[-1].pending > 6:
            work = engine.scheduler.plan().work
            assert not any(item.draft for item in work)
            assert sum(item.count for item in work) == 6
            engine.step()


def test_without_a_cache_or_with_many_sequences_nothing_is_drafted() -> None:
    model = make_model("gpt2", seed=1)
    with Engine(model, max_pages=64, max_sequences=32) as engine:
        engine.submit(PROMPTS[0], greedy_params(30), use_cache=False)
        run_to_end(engine)
        assert engine.load().drafted_tokens == 0
        engine.generate([PROMPTS[0]] * 24, greedy_params(12))
        assert engine.load().drafted_tokens == 0
    wrong: dict[str, Any] = {"speculate": "on"}
    with pytest.raises(KVError, match="speculate='on' is not one of auto, off"):
        Engine(model, **wrong)


def test_drafts_follow_the_latest_of_the_longest_occurrences_and_periods() -> None:
    index = NgramIndex([1, 2, 3, 4, 7, 2, 3, 4, 8, 9, 3, 4, 5, 2, 3, 4])
    assert index.find() == (3, 8)
    assert index.continuation(8, 3) == (8, 9, 3)
    assert NgramIndex([1, 2, 3]).find()[0] == 0
    index = NgramIndex([5, 6, 5, 6, 5, 6])
    assert index.continuation(index.find()[1], 5) == (5, 6, 5, 6, 5)
