"""Steps whose results are computed on the device: the texts, the errors, and what a step waits for.

The functions that a GPU uses run here on a CPU. Whether a GPU is waited for, a test on one decides.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from slm_kv import Engine, Handle, SamplingParams
from slm_kv.engine.step import device_results as module
from slm_kv.engine.step.device_results import device_results
from slm_testing.kv.operation_counts import OperationCounts
from slm_testing.kv.tiny_models import VOCABULARY, greedy_params, make_model, random_prompts, run_to_end
from slm_testing.kv.windowed_models import make_windowed_model

PROMPTS = [prompt * 2 for prompt in random_prompts(9, longest=9, seed=5)]
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.7, "seed": 1},
    {"temperature": 1.5, "seed": 2, "top_k": 7, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 0.5, "seed": 3, "repetition_penalty": 1.2},
    {"temperature": 0, "logprobs": 2, "prompt_logprobs": 1},
    {"temperature": 0, "min_new_tokens": 5, "ignore_eos": False, "stop_token_ids": (7, 20, 40, 60)},
    {"temperature": 0.3, "seed": 4, "logit_bias": ((5, 3.0), (7, -100.0))},
    {"temperature": 0.6, "seed": 5, "logprobs": 0, "repetition_penalty": 1.1, "prompt_logprobs": 20},
    {"temperature": 1.0, "seed": 6, "logprobs": 20},
]
SIZES: dict[str, Any] = {"page_size": 4, "max_pages": 64, "max_step_tokens": 10, "max_sequences": 4}
SMALL: dict[str, Any] = {"page_size": 2, "max_pages": 64, "max_step_tokens": 6, "max_sequences": 3}
WINDOWED = ["mistral", "gemma2", "gemma3"]


def model_named(name: str) -> Any:
    return make_windowed_model(name) if name in WINDOWED else make_model(name)


def generate(model: Any, on_device: bool, speculate: Any = "off") -> list[Handle]:
    with Engine(model, speculate=speculate, **SIZES) as engine:
        if on_device:
            engine._results = device_results
        params = [SamplingParams(max_new_tokens=14, **{"ignore_eos": True, **each}) for each in SETTINGS]
        handles = [engine.submit(*pair) for pair in zip(PROMPTS, params, strict=True)]
        handles += [engine.submit_scoring(PROMPTS[index], PROMPTS[index + 1]) for index in range(3)]
        run_to_end(engine)
        return handles


def assert_same_answers(actual: list[Handle], expected: list[Handle]) -> None:
    for handle, other in zip(actual, expected, strict=True):
        assert (handle.token_ids, handle.finish_reason) == (other.token_ids, other.finish_reason)
        assert handle.scores == other.scores
        for described, wanted in ((handle.logprobs, other.logprobs), (handle.prompt_logprobs, other.prompt_logprobs)):
            assert [replace(token, logprob=None, top=()) for token in described] == [
                replace(token, logprob=None, top=()) for token in wanted
            ]
            assert [[id for id, _ in token.top] for token in described] == [[id for id, _ in t.top] for t in wanted]
            numbers, wanted_numbers = (
                [n for t in ts for n in (t.logprob, *dict(t.top).values())] for ts in (described, wanted)
            )
            assert numbers == (pytest.approx(wanted_numbers, abs=1e-12) if wanted else [])


@pytest.mark.parametrize("speculate", ["off", "auto"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral"])
def test_the_answers_are_those_of_the_host(name: str, speculate: str) -> None:
    model = model_named(name)
    assert_same_answers(generate(model, True, speculate), generate(model, False))


def test_a_device_without_memory_leaves_sampling_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    model = make_windowed_model("mistral")
    expected = generate(model, on_device=False)
    monkeypatch.setattr(module, "sample_rows", fail)
    assert_same_answers(generate(model, True), expected)


def test_nan_logits_end_only_their_request() -> None:
    model = make_model("gpt2")
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = torch.nan
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.nan_to_num())
    with Engine(model, page_size=4, max_pages=32, packed=False) as engine:
        engine._results = device_results
        failing = [engine.submit([1], greedy_params(3)), engine.submit([1, 5], greedy_params(3, prompt_logprobs=1))]
        failing += [engine.submit([1], greedy_params(3, logprobs=1)), engine.submit_scoring([1], [4, 5])]
        other = engine.submit([2, 3], greedy_params(3))
        run_to_end(engine)
    assert [handle.finish_reason for handle in failing] == ["error"] * 4
    assert all("NaN logits" in (handle.error or "") for handle in failing)
    assert len(other.token_ids) == 3


def test_nan_keys_far_before_the_window_spoil_no_known_prefix() -> None:
    """The logits after the prompt do not depend on the NaN: 2 layers see 2 * 6 tokens back."""
    model, poison = make_windowed_model("mistral"), VOCABULARY - 1
    with torch.no_grad():
        model.get_input_embeddings().weight[poison] = torch.nan
    long = [3 + index * 7 % 80 for index in range(61)]
    with Engine(model, page_size=2, max_pages=40, max_sequences=2, max_step_tokens=80) as engine:
        engine._results = device_results
        (failing,) = engine.generate([[1, 2, 3, 4, poison, *long]], greedy_params(4))
        (fine,) = engine.generate([[1, 2, 3, 4, 5]], greedy_params(4))
    assert "NaN keys" in (failing.error or "")
    assert (fine.reused_tokens, fine.error) == (0, None)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "neox", *WINDOWED])
def test_a_step_waits_for_the_device_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks with and without a past, decode rows, logprobs and scores, of sequences whose pages are not neighbours."""
    fetches: list[int] = []
    original = module.fetch

    def counted(parts: Any) -> Any:
        fetches.append(len(parts))
        return original(parts)

    monkeypatch.setattr(module, "fetch", counted)
    with Engine(model_named(name), packed=False, **SMALL) as engine:
        for index, prompt in enumerate(PROMPTS[:3]):
            logprobs: Any = {"logprobs": 2, "prompt_logprobs": 2} if index == 2 else {}
            engine.submit(prompt, SamplingParams(max_new_tokens=6, temperature=0.5, seed=0, top_p=0.9, **logprobs))
        engine.submit_scoring(PROMPTS[3], PROMPTS[4])
        kinds: set[str] = set()
        engine._results = recording(kinds, device_results)
        waits = []
        while engine.busy:
            fetches.clear()
            with OperationCounts() as counts:
                engine.step()
            waits += counts.waits
            assert len(fetches) <= 1
    assert kinds == {"decode", "first chunk", "chunk with a past"}
    assert waits == []


def recording(kinds: set[str], function: Callable[..., Any]) -> Callable[..., Any]:
    def record(items: Any, nan_keys: Any) -> Any:
        for work, _ in items:
            past = work.sequence.block_table.length
            kinds.add("decode" if work.decodes else "chunk with a past" if past else "first chunk")
        return function(items, nan_keys)

    return record


def whole_logits(model: Any, settings: list[dict[str, Any]]) -> list[int]:
    """For each decode step, of how many sequences the host gets the logits."""
    rows = []
    with Engine(model, packed=False, **SIZES) as engine:

        def results(items: Any, nan_keys: Any) -> Any:
            given = [logits_RV for _, logits_RV in items]
            wait = device_results(items, nan_keys)

            def count() -> Any:
                values = wait()
                rows.append(sum(result.logits_RV is not own for (_, result), own in zip(values, given, strict=True)))
                return values

            return count

        engine._results = results
        for prompt, each in zip(PROMPTS, settings, strict=False):
            engine.submit(prompt[:1], SamplingParams(max_new_tokens=3, ignore_eos=True, **each))
        run_to_end(engine)
    return rows


def test_logits_leave_the_device_only_for_tokens_that_depend_on_the_text_so_far() -> None:
    on_device = [{"temperature": 0}, {"top_p": 0.5}, {"logprobs": 5}, {"prompt_logprobs": 5}]
    on_host: list[dict[str, Any]] = [{"repetition_penalty": 1.2}, {"logit_bias": ((5, 1.0),)}, {"min_new_tokens": 9}]
    model = make_model("gpt2")
    assert whole_logits(model, on_device) == [0, 0, 0]
    assert whole_logits(model, [*on_device[:1], *on_host]) == [3, 3, 3]


def count_step(model: Any, kind: str, sequences: int) -> tuple[int, int]:
    """The operations of a step within the model's forward pass and beside it. None of them waits for the device."""
    counts, within = OperationCounts(), []
    forward = model.forward

    def counted(*arguments: Any, **options: Any) -> Any:
        before = len(counts.operations)
        output = forward(*arguments, **options)
        within.append(len(counts.operations) - before)
        return output

    settings: dict[str, Any] = {"sampled": {"top_p": 0.9}, "logprobs": {"temperature": 0, "logprobs": 2}}
    params = SamplingParams(max_new_tokens=9, seed=1, ignore_eos=True, **settings.get(kind, {"temperature": 0}))
    sizes: dict[str, Any] = {
        "page_size": 4,
        "max_pages": 99,
        "max_sequences": sequences,
        "max_step_tokens": 8 * sequences,
    }
    with Engine(model, packed=False, prefix_caching=False, speculate="off", **sizes) as engine:
        engine._results = device_results
        for index in range(sequences):
            if kind == "chunk":
                engine.submit([5 + index] * (30 + 7 * index), params)
            elif kind == "scores":
                engine.submit_scoring([5 + index] * 8, [3] * 30)
            else:
                engine.submit([5 + index, 6], params)
        engine.step()
        engine.step()
        model.forward = counted
        with counts:
            engine.step()
        model.forward = forward
    assert counts.waits == []
    (forward_pass,) = within
    return forward_pass, len(counts.operations) - forward_pass


# Beside the forward pass: one copy to the device, its views as int64, and the results.
@pytest.mark.parametrize(
    ("name", "kind", "operations"),
    [
        ("llama", "greedy", 12),
        ("gpt2", "greedy", 12),
        ("gpt2", "sampled", 53),
        ("gpt2", "logprobs", 27),
        ("gpt2", "chunk", 12),
        ("gpt2", "scores", 20),
        ("mistral", "chunk", 23),
        ("gemma3", "chunk", 12),
    ],
)
def test_the_operations_beside_the_forward_pass_are_few_for_any_number_of_sequences(
    name: str, kind: str, operations: int
) -> None:
    model = model_named(name)
    (_, one), (_, four) = (count_step(model, kind, sequences) for sequences in (1, 4))
    assert one <= four <= operations
    assert one == four or kind == "chunk"  # of one sequence, the chunk is not its last: nothing is sampled
