"""What happens to a sequence at the end of the pages or of the model's positions."""

import pytest
from transformers import BloomConfig, Gemma3Config, GPT2Config, PretrainedConfig

from slm_kv import Engine, Handle
from slm_kv.engine.context_limits import ContextLimits, OnFull
from slm_testing.kv.tiny_models import POSITIONS, greedy_params, greedy_tokens, make_model, run_to_end

PROMPT = [7, 8, 9, 10, 11]


def run_into_limit(name: str, on_full: OnFull, new: int, pages: int = 4) -> Handle:
    with Engine(make_model(name), page_size=4, max_pages=pages, on_full=on_full) as engine:
        handle = engine.submit(PROMPT, greedy_params(new))
        run_to_end(engine)
        assert engine.pool.used_pages == 0
    return handle


@pytest.mark.parametrize(("pages", "limit"), [(4, 16), (40, POSITIONS)])
def test_stop_fills_all_slots_and_finishes_with_length(pages: int, limit: int) -> None:
    handle = run_into_limit("gpt2", "stop", 90, pages)
    new = limit - len(PROMPT) + 1  # the last token needs no slot
    assert (handle.finish_reason, handle.token_ids) == ("length", greedy_tokens(make_model("gpt2"), PROMPT, new))


def test_error_keeps_the_generated_tokens_and_names_the_cause() -> None:
    handle = run_into_limit("llama", "error", 90)
    assert handle.finish_reason == "error"
    assert handle.error is not None
    assert "the context is full after 17 tokens" in handle.error
    assert handle.token_ids == greedy_tokens(make_model("llama"), PROMPT, 12)


def test_the_window_of_absolute_positions_is_the_last_half_computed_again() -> None:
    handle = run_into_limit("gpt2", "window", 30)
    text, expected = list(PROMPT), []
    context = list(PROMPT)
    for _ in range(30):
        if len(context) > 16:
            context = text[-8:]
        (token,) = greedy_tokens(make_model("gpt2"), context, 1)
        context.append(token)
        text.append(token)
        expected.append(token)
    assert (handle.finish_reason, handle.token_ids, handle.slides > 0) == ("length", expected, True)


def test_the_window_of_a_rotary_model_keeps_the_first_page_and_moves_by_pages() -> None:
    with Engine(make_model("llama"), page_size=4, max_pages=4, on_full="window") as engine:
        handle = engine.submit(PROMPT, greedy_params(30))
        engine.step()
        first = engine._sequences[handle.id].block_table.pages[0]
        while engine.busy:
            engine.step()
            engine.pool.check_integrity()
            if handle.id in engine._sequences:
                assert engine._sequences[handle.id].block_table.pages[0] == first
    assert (handle.finish_reason, len(handle.token_ids)) == ("length", 30)
    assert handle.slides == -(-(len(PROMPT) + 30 - 1 - 16) // 4)
    assert handle.token_ids[:12] == greedy_tokens(make_model("llama"), PROMPT, 12)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_window_continues_past_the_models_positions(name: str) -> None:
    handle = run_into_limit(name, "window", 3 * POSITIONS, pages=8)
    assert (handle.finish_reason, len(handle.token_ids)) == ("length", 3 * POSITIONS)
    assert handle.error is None


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (GPT2Config(n_positions=48), 48),
        (Gemma3Config(text_config={"max_position_embeddings": 96}), 96),
        (BloomConfig(), 40),  # no limit of its own
    ],
    ids=["plain", "multimodal", "unlimited"],
)
def test_positions_are_those_of_the_text_config_or_the_slots_of_the_pool(
    config: PretrainedConfig, positions: int
) -> None:
    limits = ContextLimits.from_config(config, 4, 10, None, "refuse")
    assert (limits.positions, limits.tokens) == (positions, 40)
