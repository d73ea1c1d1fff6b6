"""Decode steps of fixed shapes: the tokens of the engine without them, and how often a step is captured.

The captures that a GPU makes are replaced by functions that compute the step again from the same buffer.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from slm_kv import Engine, Handle, KVError, SamplingParams
from slm_kv.engine.step import model_runner
from slm_kv.engine.step.graphed_decode import GraphedDecode, Recording
from slm_testing.kv.lora_model import make_lora_model
from slm_testing.kv.tiny_models import greedy_params, greedy_tokens, make_model, random_prompts, run_to_end
from slm_testing.kv.windowed_models import make_windowed_model

SIZES: dict[str, Any] = {"page_size": 2, "max_pages": 120, "max_sequences": 6, "max_step_tokens": 20}
PROMPTS = random_prompts(9, longest=17, seed=2)


def capture(function: Callable[[], Tensor]) -> Recording:
    output = function()

    def replay() -> None:
        output.copy_(function())

    return Recording(replay, output)


def graphed_engine(model: Any, capture: Any = capture, **options: Any) -> Engine:
    """An engine on a CPU that captures steps as one on a GPU does, and has no compiled step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_runner, "select_capture", lambda *_: capture)
        engine = Engine(model, packed=False, cuda_graphs="auto", **{**SIZES, **options})
    engine._runner.step = None
    assert isinstance(engine._runner.graphs, GraphedDecode)
    return engine


def graphs(engine: Engine) -> GraphedDecode:
    assert engine._runner.graphs is not None
    return engine._runner.graphs


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox", "mistral", "gemma2", "gpt_oss"])
def test_tokens_are_exact_for_batches_that_grow_and_shrink(name: str) -> None:
    windowed = name in ("mistral", "gemma2", "gpt_oss")
    model = make_windowed_model(name) if windowed else make_model(name)
    requests = [(prompt, 4 + 5 * index) for index, prompt in enumerate(PROMPTS)]
    expected = [greedy_tokens(model, *request) for request in requests]
    with graphed_engine(model, speculate="off") as engine:
        handles = [engine.submit(prompt, greedy_params(new)) for prompt, new in requests]
        while engine.busy:
            spare = engine.storage.spare_page
            for tensor in engine.storage.keys + engine.storage.values:
                tensor[spare] = torch.nan  # what the rows without a sequence read
            engine.step()
            engine.pool.check_integrity()
        captured, replays = graphs(engine).captured, graphs(engine).replays
        assert graphs(engine).failure is None
    assert [handle.token_ids for handle in handles] == expected
    shapes = {(bucket.rows, bucket.pages) for bucket in captured}
    assert {rows for rows, _ in shapes} <= {1, 2, 4, 8}  # of at most 16 rows
    assert {pages for _, pages in shapes} <= {8, 16, 32}
    assert len(captured) == len(shapes)
    assert replays > 3 * len(captured)


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_any_order_of_requests_changes_no_text(data: st.DataObject) -> None:
    speculate: Any = data.draw(st.sampled_from(("auto", "off")))
    with graphed_engine(MODEL, page_size=data.draw(st.sampled_from((1, 3, 16))), speculate=speculate) as engine:
        engine._launches_ahead = data.draw(st.booleans(), label="launches ahead")
        handles: list[tuple[int, Handle]] = []
        for _ in range(data.draw(st.integers(1, 12), label="events")):
            event = data.draw(st.sampled_from(("submit", "submit", "step", "step", "cancel")))
            if event == "submit":
                which = data.draw(st.integers(0, len(PROMPTS) - 1))
                handles.append((which, engine.submit(PROMPTS[which], greedy_params(12))))
            elif event == "cancel" and handles:
                engine.cancel(data.draw(st.sampled_from(handles))[1])
            else:
                engine.step()
        run_to_end(engine)
    for which, handle in handles:
        assert handle.token_ids == EXPECTED[which][: len(handle.token_ids)]
        assert handle.finish_reason == ("cancelled" if len(handle.token_ids) < 12 else "length")


MODEL = make_model("llama", seed=4)
EXPECTED = [greedy_tokens(MODEL, prompt, 12) for prompt in PROMPTS]


def test_a_row_does_not_depend_on_the_garbage_in_pages_that_it_does_not_read() -> None:
    results = []
    for garbage in (0.0, torch.nan):
        with graphed_engine(MODEL, speculate="off") as engine:
            for tensor in engine.storage.keys + engine.storage.values:
                tensor.fill_(garbage)
            params = SamplingParams(max_new_tokens=8, logprobs=3, seed=1, ignore_eos=True)
            handles = engine.generate(PROMPTS[:3], params)  # three rows in a bucket of four
            assert graphs(engine).replays
        results.append([(handle.token_ids, handle.logprobs, handle.error) for handle in handles])
    assert results[0] == results[1]


def test_adapters_other_than_the_default_and_mixed_batches_call_the_model() -> None:
    model = make_lora_model()
    names = ["red", "blue", "__base__"]
    with Engine(model, packed=False, **SIZES) as engine:
        expected = {name: engine.submit(PROMPTS[0], greedy_params(6), adapter=name) for name in names}
        run_to_end(engine)
    with graphed_engine(model) as engine:
        default = engine.adapters.default
        alone = {}
        for name in names:
            alone[name] = engine.submit(PROMPTS[0], greedy_params(6), adapter=name)
            run_to_end(engine)
        assert {bucket.adapter for bucket in graphs(engine).captured} == {None, default}
        replays = graphs(engine).replays
        mixed = {name: engine.submit(PROMPTS[0], greedy_params(6), adapter=name) for name in names}
        run_to_end(engine)
        assert graphs(engine).replays == replays
    for name in names:
        assert alone[name].token_ids == mixed[name].token_ids == expected[name].token_ids


def test_changed_weights_are_captured_again() -> None:
    model = make_model("gpt2")
    with graphed_engine(model, speculate="off") as engine:
        engine.generate(PROMPTS[:1], greedy_params(5))
        with torch.no_grad():  # in place, and as another tensor, which a capture would not read
            model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.flip(0))
        assert graphs(engine).captured
        engine.weights_changed()
        assert not graphs(engine).captured
        (handle,) = engine.generate(PROMPTS[:1], greedy_params(5))
    assert handle.token_ids == greedy_tokens(model, PROMPTS[0], 5)


def test_a_capture_that_gives_the_logits_of_its_own_inputs_is_not_used() -> None:
    """As if the model read its inputs on the host, which a replay does not repeat."""

    def stale(function: Callable[[], Tensor]) -> Recording:
        return Recording(lambda: None, function())

    def failing(function: Callable[[], Tensor]) -> Recording:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    for wrong, reason in ((stale, "replayed logits differ by"), (failing, "operation not permitted when stream is")):
        with graphed_engine(MODEL, wrong) as engine:
            handles = engine.generate(PROMPTS, greedy_params(12))
            assert f"\ncuda graphs: off, {reason}" in engine.summary
            assert (graphs(engine).captured, graphs(engine).replays) == ({}, 0)
        assert [handle.token_ids for handle in handles] == EXPECTED


def test_a_device_without_graphs_says_so_and_nothing_is_said_unless_asked() -> None:
    with Engine(MODEL, cuda_graphs="auto", **SIZES) as engine:
        assert engine.summary.endswith("\ncuda graphs: none on a cpu")
        assert [handle.token_ids for handle in engine.generate(PROMPTS[:2], greedy_params(12))] == EXPECTED[:2]
    with Engine(MODEL, **SIZES) as engine:
        assert "graphs" not in engine.summary
    wrong: Any = "on"
    with pytest.raises(KVError, match="cuda_graphs='on' is not one of auto, off"):
        Engine(MODEL, cuda_graphs=wrong)
