"""Sliding windows, soft caps and attention sinks in the engine: the text of ``model.generate``, beyond the window."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from slm_kv import Engine, Handle, KVError, UnsupportedModel
from slm_kv.attention import backends, interface
from slm_kv.sampling.speculation import Speculate
from slm_testing.kv.tiny_models import VOCABULARY, greedy_params, greedy_tokens, run_to_end
from slm_testing.kv.windowed_models import ALL_LAYERS, LONG_CONTEXT, SOME_LAYERS, WINDOW, make_windowed_model

NAMES = [*ALL_LAYERS, *SOME_LAYERS]
LONG = [3 + index * 7 % 80 for index in range(61)]


def prompts() -> list[list[int]]:
    """Prompts shorter than the window, as long, and much longer."""
    return [LONG[start : start + length] for start, length in ((0, 3), (9, WINDOW), (1, WINDOW + 1), (20, 20), (5, 45))]


@cache
def expected_tokens(name: str) -> list[list[int]]:
    """The 24 tokens that ``generate`` adds to each of the prompts."""
    model = make_windowed_model(name)
    return [greedy_tokens(model, prompt, 24) for prompt in prompts()]


@pytest.mark.parametrize("page_size", [1, 3, 16])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_exact_beyond_the_window(name: str, page_size: int) -> None:
    model, expected = make_windowed_model(name), expected_tokens(name)
    pages = -(-72 // page_size)  # the longest sequence fits alone, but not with all others
    # With speculation the sequences end too soon to need pages of 16 tokens from each other.
    speculate: Speculate = "off" if page_size == 16 else "auto"
    options: Any = {"page_size": page_size, "max_pages": pages, "speculate": speculate}
    with Engine(model, **options, max_sequences=4, max_step_tokens=11) as engine:
        together = [engine.submit(prompt, greedy_params(24)) for prompt in prompts()]
        run_to_end(engine)
        assert engine.load().preemptions > 0 or name in ALL_LAYERS
        again = engine.submit(prompts()[4] + expected[4][:20], greedy_params(4))
        run_to_end(engine)
        assert again.reused_tokens > 0
        recomputed = engine.submit(prompts()[3], greedy_params(3), use_cache=False)
        run_to_end(engine)
        assert engine.pool.used_pages == 0
    assert [handle.token_ids for handle in together] == expected
    assert again.token_ids == expected[4][20:]
    assert recomputed.token_ids == expected[3][:3]


@pytest.mark.parametrize("name", NAMES)
def test_logprobs_equal_those_of_the_models_own_forward_pass(name: str) -> None:
    model = make_windowed_model(name)
    with torch.inference_mode():
        logprobs = model(torch.tensor([LONG])).logits[0].log_softmax(-1)
    expected = [float(logprobs[index, token]) for index, token in enumerate(LONG[1:])]
    with Engine(model, page_size=3, max_pages=30, max_sequences=1, max_step_tokens=10) as engine:
        (handle,) = engine.generate([LONG], greedy_params(1, prompt_logprobs=0))
    assert [token.logprob for token in handle.prompt_logprobs] == pytest.approx(expected, abs=1e-4)


OPTIONS = [(name, "window") for name in NAMES] + [("gemma2", "softcap"), ("gpt_oss", "sinks")]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_attention_without_the_option_would_be_noticed(name: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_windowed_model(name)
    layer_attention = interface.layer_attention

    def drop_option(*arguments: Any) -> Any:
        return replace(layer_attention(*arguments), **{option: None})

    monkeypatch.setattr(interface, "layer_attention", drop_option)
    with pytest.raises(UnsupportedModel, match="gives other logits on pages"):
        Engine(model, page_size=4, max_pages=30)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt_oss"])
def test_without_compiled_attention_the_tokens_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_windowed_model(name)
    expected = [tokens[:10] for tokens in expected_tokens(name)]
    monkeypatch.setattr(backends, "import_optional", lambda module: None)
    with Engine(model, page_size=3, max_pages=90, max_sequences=5, max_step_tokens=13) as engine:
        assert [handle.token_ids for handle in engine.generate(prompts(), greedy_params(10))] == expected


def peak_pages(engine: Engine, prompt: list[int], new: int) -> tuple[list[int], int]:
    """Generate ``new`` tokens; return them and the largest number of pages in use."""
    handle, peak = engine.submit(prompt, greedy_params(new)), 0
    while engine.busy:
        engine.step()
        engine.pool.check_integrity()
        peak = max(peak, engine.pool.used_pages)
    return handle.token_ids, peak


@pytest.mark.parametrize(("name", "pages"), [("mistral", 3), ("gemma3", -(-(45 + 99) // 4))])
def test_pages_that_no_layer_reads_are_released(name: str, pages: int) -> None:
    """3 pages: a window of 7 tokens that begins in one and ends two pages later."""
    model = make_windowed_model(name)
    # The last step of a text, after which its pages are free, would be one of several tokens with speculation.
    with Engine(model, page_size=4, max_pages=100, max_sequences=2, max_step_tokens=4, speculate="off") as engine:
        tokens, peak = peak_pages(engine, LONG[:45], 100)
    assert (tokens, peak) == (greedy_tokens(model, LONG[:45], 100), pages)


def test_a_prompt_may_be_longer_than_the_pool_if_every_layer_has_a_window() -> None:
    model = make_windowed_model("mistral")
    with Engine(model, page_size=4, max_pages=3, max_step_tokens=40) as engine:
        assert engine.context_limits.tokens == LONG_CONTEXT
        tokens, peak = peak_pages(engine, LONG, 30)
    assert (tokens, peak) == (greedy_tokens(model, LONG, 30), 3)


def test_a_pool_smaller_than_the_window_limits_the_text() -> None:
    with Engine(make_windowed_model("mistral"), page_size=4, max_pages=2) as engine:
        assert engine.context_limits.tokens == 8
        with pytest.raises(KVError, match=r"the prompt has 61 tokens and max_pages=2 pages .* give at least 3 pages$"):
            engine.submit(LONG, greedy_params(1))
        with pytest.raises(KVError, match="need 9 tokens of context and the pages hold 8"):
            engine.submit(LONG[:4], greedy_params(6))


def test_a_preempted_sequence_is_computed_again_from_its_first_token() -> None:
    model = make_windowed_model("mistral")
    expected = [greedy_tokens(model, prompt, 40) for prompt in (LONG, LONG[30:])]
    with Engine(model, page_size=4, max_pages=40, max_step_tokens=32, prefix_caching=False) as engine:
        handles = [engine.submit(prompt, greedy_params(40)) for prompt in (LONG, LONG[30:])]
        for step in range(40):
            engine.step()
            if step in (15, 30):
                engine.scheduler.preempt(engine.scheduler.running[-1])
        run_to_end(engine)
    assert [handle.token_ids for handle in handles] == expected


def test_a_long_prefix_is_reused_by_its_last_pages_even_if_the_first_were_evicted() -> None:
    model = make_windowed_model("mistral")
    with Engine(model, page_size=4, max_pages=10, max_step_tokens=32) as engine:
        engine.generate([LONG], greedy_params(1))
        assert engine.pool.cached_pages < len(LONG) // 4
        (handle,) = engine.generate([LONG], greedy_params(20))
        assert handle.reused_tokens == 60
    assert handle.token_ids == greedy_tokens(model, LONG, 20)


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_a_window_continues_past_the_models_positions(name: str) -> None:
    model = make_windowed_model(name)
    model.config.max_position_embeddings = 64
    with Engine(model, page_size=4, max_pages=20, on_full="window") as engine:
        handle = engine.submit(LONG[:40], greedy_params(80))
        run_to_end(engine)
    assert (handle.finish_reason, len(handle.token_ids), handle.slides > 0) == ("length", 80, True)
    assert handle.token_ids[:24] == greedy_tokens(model, LONG[:40], 24)


def poisoned_model() -> PreTrainedModel:
    """A windowed model in which one token has a NaN embedding."""
    model = make_windowed_model("mistral")
    with torch.no_grad():
        model.get_input_embeddings().weight[VOCABULARY - 1] = torch.nan
    return model


def test_a_nan_far_before_the_window_spoils_no_known_prefix() -> None:
    """The logits after the prompt do not depend on the NaN: 2 layers see 2 * 6 tokens back."""
    expected = greedy_tokens(make_windowed_model("mistral"), [1, 2, 3, 4, 5], 4)
    with Engine(poisoned_model(), page_size=2, max_pages=40, max_sequences=2, max_step_tokens=8) as engine:
        (failing,) = engine.generate([[1, 2, 3, 4, VOCABULARY - 1, *LONG]], greedy_params(4))
        (fine,) = engine.generate([[1, 2, 3, 4, 5]], greedy_params(4))
    assert failing.finish_reason == "error"
    assert "NaN keys" in (failing.error or "")
    assert (fine.token_ids, fine.error) == (expected, None)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_any_order_of_requests_and_cancellations_changes_no_text(data: st.DataObject) -> None:
    page_size = data.draw(st.sampled_from((1, 2, 5, 16)), label="page size")
    least = -(-(WINDOW - 1 + page_size) // page_size)
    pages = data.draw(st.integers(least, least + -(-60 // page_size)), label="pages")
    step_tokens = data.draw(st.integers(3, 40), label="tokens in a step")
    expected = expected_tokens("mistral")
    with Engine(MODEL, page_size=page_size, max_pages=pages, max_sequences=3, max_step_tokens=step_tokens) as engine:
        engine._launches_ahead = data.draw(st.booleans(), label="launches ahead")
        handles: list[tuple[int, Handle]] = []
        for _ in range(data.draw(st.integers(1, 12), label="events")):
            event = data.draw(st.sampled_from(("submit", "submit", "step", "step", "cancel")))
            if event == "submit":
                which, new = data.draw(st.integers(0, len(expected) - 1)), data.draw(st.sampled_from((1, 10)))
                use_cache = data.draw(st.sampled_from((True, True, False)))
                handles.append((which, engine.submit(prompts()[which], greedy_params(new), use_cache=use_cache)))
            elif event == "cancel" and handles:
                engine.cancel(data.draw(st.sampled_from(handles))[1])
            else:
                engine.step()
            engine.pool.check_integrity()
        run_to_end(engine)
        assert (engine.pool.used_pages, engine.pool.filled_slots) == (0, 0)
    for which, handle in handles:
        assert handle.token_ids == expected[which][: len(handle.token_ids)]
        assert handle.finish_reason in ("length", "cancelled")


MODEL = make_windowed_model("mistral")
