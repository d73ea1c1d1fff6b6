"""Steps whose tokens are sampled on the device: the texts, the errors, and what a step waits for.

The functions that a GPU uses run here on a CPU. Whether a GPU is waited for, a test on one decides.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from slm_kv import Engine, Handle, SamplingParams
from slm_kv.engine.step import step_results
from slm_kv.engine.step.step_results import fetch
from slm_testing.kv.tiny_models import make_model, random_prompts, run_to_end

PROMPTS = [prompt * 2 for prompt in random_prompts(7, longest=9, seed=5)]
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.7, "seed": 1},
    {"temperature": 1.5, "seed": 2, "top_k": 7, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 0.5, "seed": 3, "repetition_penalty": 1.2},
    {"temperature": 0, "logprobs": 2, "prompt_logprobs": 1},
    {"temperature": 0, "min_new_tokens": 5, "ignore_eos": False, "stop_token_ids": (7, 20, 40, 60)},
    {"temperature": 0.3, "seed": 4, "logit_bias": ((5, 3.0), (7, -100.0))},
]
# They copy a number to the host, or depend on how many elements a condition selects: a GPU is waited for.
WAITING_OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")


class Waits(TorchDispatchMode):
    """Records the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put_", "index_put") else ()
        if name.startswith(WAITING_OPERATIONS) or any(
            each is not None and each.dtype is torch.bool for each in indices
        ):
            self.operations.append(name)
        return func(*args, **(kwargs or {}))


def generate(model: Any, on_device: bool, speculate: Any = "off") -> list[Handle]:
    with Engine(model, page_size=4, max_pages=64, max_step_tokens=10, max_sequences=4, speculate=speculate) as engine:
        if on_device:
            engine._fetch = fetch
        params = [SamplingParams(max_new_tokens=14, **{"ignore_eos": True, **each}) for each in SETTINGS]
        handles = [engine.submit(*pair) for pair in zip(PROMPTS, params, strict=True)]
        run_to_end(engine)
        return handles


@pytest.mark.parametrize("speculate", ["off", "auto"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_texts_are_those_of_the_samplers_on_the_host(name: str, speculate: str) -> None:
    model = make_model(name)
    expected = generate(model, on_device=False)
    actual = generate(model, on_device=True, speculate=speculate)
    assert [handle.token_ids for handle in actual] == [handle.token_ids for handle in expected]
    assert [handle.finish_reason for handle in actual] == [handle.finish_reason for handle in expected]
    assert [handle.logprobs for handle in actual] == [handle.logprobs for handle in expected]


def test_a_device_without_memory_leaves_sampling_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    model = make_model("gpt2")
    expected = generate(model, on_device=False)
    monkeypatch.setattr(step_results, "sample_rows", fail)
    assert [handle.token_ids for handle in generate(model, True)] == [handle.token_ids for handle in expected]


def test_nan_logits_end_only_their_request() -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = torch.nan
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num())
    with Engine(model, page_size=4, max_pages=32, packed=False) as engine:
        engine._fetch = fetch
        failing, other = (engine.submit(ids, SamplingParams(max_new_tokens=3, temperature=0)) for ids in ([1], [2, 3]))
        run_to_end(engine)
    assert failing.finish_reason == "error"
    assert "NaN logits" in (failing.error or "")
    assert len(other.token_ids) == 3


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox"])
def test_no_operation_of_a_step_waits_for_the_device(name: str) -> None:
    """Chunks with and without a past, and decode rows, of sequences whose pages are not neighbours."""
    sizes = {"page_size": 2, "max_pages": 64, "max_step_tokens": 6, "max_sequences": 3}
    with Engine(make_model(name), packed=False, **sizes) as engine:
        for prompt in PROMPTS[:3]:
            engine.submit(prompt, SamplingParams(max_new_tokens=6, temperature=0.5, seed=0, top_p=0.9))
        kinds = set()
        engine._fetch = recording(kinds, fetch)
        with Waits() as waits:
            run_to_end(engine)
    assert kinds == {"decode", "first chunk", "chunk with a past"}
    assert waits.operations == []


def recording(kinds: set[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def record(items: Any) -> Any:
        for work, _ in items:
            past = work.sequence.block_table.length
            kinds.add("decode" if work.decodes else "chunk with a past" if past else "first chunk")
        return function(items)

    return record
