"""The engine's greedy tokens equal those of ``model.generate``, whatever else the engine does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slm_kv import Engine, Handle, SamplingParams
from slm_kv.attention import backends, reference
from slm_testing.kv.tiny_models import (
    MODEL_FACTORIES,
    greedy_params,
    greedy_tokens,
    make_model,
    random_prompts,
    run_to_end,
)

PAGE_SIZES = (1, 3, 16)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("name", MODEL_FACTORIES)
def test_tokens_are_exact_alone_in_a_batch_after_preemption_and_on_known_prefixes(name: str, page_size: int) -> None:
    model = make_model(name)
    requests = [(prompt, 10 + 5 * index) for index, prompt in enumerate(random_prompts(6))]
    expected = [greedy_tokens(model, prompt, new) for prompt, new in requests]
    pages = -(-60 // page_size)  # the longest sequence fits alone, but not with all others
    with Engine(model, page_size=page_size, max_pages=pages, max_sequences=4, max_step_tokens=7) as engine:
        alone = [engine.submit(prompt, greedy_params(new)) for prompt, new in requests[:1]]
        run_to_end(engine)
        together = [engine.submit(prompt, greedy_params(new)) for prompt, new in requests]
        run_to_end(engine)
        assert engine.load().preemptions > 0 or page_size == 16
        again = engine.submit(requests[5][0] + expected[5][:8], greedy_params(requests[5][1] - 8))
        run_to_end(engine)
        assert again.reused_tokens > 0
        assert engine.pool.used_pages == 0
    assert [alone[0].token_ids, *(handle.token_ids for handle in together)] == [expected[0], *expected]
    assert again.token_ids == expected[5][8:]


@pytest.mark.parametrize("name", ["opt", "mistral"])
def test_other_architectures_are_exact_as_well(name: str) -> None:
    model = make_model(name)
    requests = [(prompt, 40) for prompt in random_prompts(4)]
    expected = [greedy_tokens(model, prompt, new) for prompt, new in requests]
    with Engine(model, page_size=3, max_pages=22, max_sequences=4, max_step_tokens=7) as engine:
        together = [engine.submit(prompt, greedy_params(new)) for prompt, new in requests]
        run_to_end(engine)
        assert engine.load().preemptions > 0
    assert [handle.token_ids for handle in together] == expected


def test_without_compiled_attention_and_packing_the_tokens_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    prompts = random_prompts(4, seed=3)
    expected = [greedy_tokens(model, prompt, 8) for prompt in prompts]
    monkeypatch.setattr(backends, "import_optional", lambda name: None)
    with Engine(model, page_size=4, max_pages=40, max_step_tokens=40, packed=False) as engine:
        assert engine._runner._attend is reference.attend
        assert [handle.token_ids for handle in engine.generate(prompts, greedy_params(8))] == expected


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_any_order_of_requests_and_cancellations_leaks_nothing_and_changes_no_text(data: st.DataObject) -> None:
    page_size = data.draw(st.sampled_from((1, 2, 5, 16)), label="page size")
    pages = data.draw(st.integers(-(-30 // page_size), -(-60 // page_size)), label="pages")
    with Engine(MODEL, page_size=page_size, max_pages=pages, max_sequences=3, max_step_tokens=6) as engine:
        engine._launches_ahead = data.draw(st.booleans(), label="launches ahead")
        handles: list[tuple[int, Handle]] = []
        for _ in range(data.draw(st.integers(1, 12), label="events")):
            event = data.draw(st.sampled_from(("submit", "submit", "step", "step", "cancel")))
            if event == "submit":
                which = data.draw(st.integers(0, len(PROMPTS) - 1))
                handles.append((which, engine.submit(PROMPTS[which], greedy_params(12))))
            elif event == "cancel" and handles:
                handle = data.draw(st.sampled_from(handles))[1]
                running = not handle.finished
                assert engine.cancel(handle) is running
            else:
                engine.step()
            engine.pool.check_integrity()
        run_to_end(engine)
        assert (engine.pool.used_pages, engine.pool.filled_slots) == (0, 0)
    for which, handle in handles:
        assert handle.token_ids == EXPECTED[which][: len(handle.token_ids)]
        assert handle.finish_reason == ("cancelled" if len(handle.token_ids) < 12 else "length")


def test_sampled_text_depends_on_its_seed_and_not_on_other_requests() -> None:
    model = make_model("qwen2")
    prompts = random_prompts(5, seed=5)
    params = [SamplingParams(max_new_tokens=10, top_p=0.9, seed=seed, ignore_eos=True) for seed in range(5)]
    with Engine(model, page_size=4, max_pages=60) as engine:
        alone = []
        for prompt, sampling in zip(prompts, params, strict=True):
            alone.append(engine.submit(prompt, sampling))
            run_to_end(engine)
        together = [engine.submit(prompt, sampling) for prompt, sampling in zip(prompts, params, strict=True)]
        run_to_end(engine)
        other = engine.submit(prompts[0], SamplingParams(max_new_tokens=10, seed=99, ignore_eos=True))
        run_to_end(engine)
    assert [handle.token_ids for handle in together] == [handle.token_ids for handle in alone]
    assert other.token_ids != alone[0].token_ids


def test_closing_the_engine_restores_the_model() -> None:
    model = make_model("gpt2")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = greedy_tokens(model, [5, 6, 7], 6)
    with Engine(model, page_size=4, max_pages=8) as engine:
        engine.generate([[5, 6, 7]], greedy_params(6))
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert model.lm_head.weight is model.transformer.wte.weight
    assert greedy_tokens(model, [5, 6, 7], 6) == expected


def test_logprobs_equal_those_of_one_forward_pass_over_the_text() -> None:
    model = make_model("llama")
    prompt = random_prompts(1, seed=8)[0] + [3, 4, 5, 6, 7, 8, 9]
    with Engine(model, page_size=4, max_pages=20, max_sequences=2, max_step_tokens=3) as engine:
        engine.generate([prompt], greedy_params(2))  # the prompt is known now; for its logprobs it is computed again
        (handle,) = engine.generate([prompt], greedy_params(5, logprobs=2, prompt_logprobs=1))
    with torch.inference_mode():
        text = prompt + handle.token_ids
        logprobs = model(torch.tensor([text])).logits[0].log_softmax(-1)
    logprobs_found = [token.logprob for token in handle.prompt_logprobs + handle.logprobs]
    expected = [float(logprobs[index, token]) for index, token in enumerate(text[1:])]
    assert logprobs_found == pytest.approx(expected, abs=1e-4)
    assert [token.token_id for token in handle.prompt_logprobs] == prompt[1:]
    assert [token.top[0][0] for token in handle.logprobs] == handle.token_ids  # greedy: the likeliest
    assert all(len(token.top) == 2 for token in handle.logprobs)


MODEL = make_model("llama", seed=4)
PROMPTS = random_prompts(4, longest=18, seed=4)
PROMPTS.append(PROMPTS[0] + [1, 2, 3][: 18 - len(PROMPTS[0])])
EXPECTED = [greedy_tokens(MODEL, prompt, 12) for prompt in PROMPTS]
