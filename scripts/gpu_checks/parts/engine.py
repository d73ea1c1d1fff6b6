"""The engine in float32 against transformers' ``generate``, and how often a decode step waits for the device."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from gpu_checks.engine_features import graph_settings
from gpu_checks.recorder import Recorder
from slm_kv import Engine, SamplingParams
from slm_testing.kv.tiny_models import greedy_params, make_model, random_prompts, run_to_end

NEW = 16
SIZES: dict[str, Any] = {"page_size": 3, "max_pages": 160, "max_sequences": 4, "max_step_tokens": 7}
SYNC_STEPS = 8
SAMPLED = {"temperature": 1.1, "top_p": 0.9, "top_k": 40}


def run(recorder: Recorder) -> None:
    """Compare greedy texts, then sampled ones alone and batched, then count waits."""
    prompts = random_prompts(recorder.sizes.prompts)
    equal = {setting: dict[str, int]() for setting in graph_settings(recorder.device)}
    for name in recorder.sizes.exact_models:
        model: Any = make_model(name)
        model.to(recorder.device)
        expected = [generated(model, prompt) for prompt in prompts]
        for setting, counts in equal.items():
            with Engine(model, **SIZES, cuda_graphs=setting) as engine:
                texts = [handle.token_ids for handle in engine.generate(prompts, greedy_params(NEW))]
            counts[name] = sum(ours == theirs for ours, theirs in zip(texts, expected, strict=True))
    for key, setting in (("tokens", "off"), ("graphs", "auto")):
        if setting in equal:
            observed = ", ".join(f"{name} {count} of {len(prompts)} texts" for name, count in equal[setting].items())
            recorder.claim(key, set(equal[setting].values()) == {len(prompts)}, observed)
        else:
            recorder.skip(key, "needs a CUDA device")
    same = sampled_alone_and_batched(recorder.device, prompts)
    recorder.claim("sampled", same == len(prompts), f"{same} of {len(prompts)} texts")
    _check_waits(recorder)


@torch.inference_mode()
def generated(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """Return the tokens that ``generate`` adds to a prompt, greedily, past any end of text."""
    ids = torch.tensor([prompt], device=model.device)
    settings: Any = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": NEW}
    generate: Any = model.generate
    tokens: list[int] = generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(prompt) :].tolist()
    return tokens


def sampled_alone_and_batched(device: torch.device, prompts: list[list[int]]) -> int:
    """Return how many sampled texts are the same alone and among the others."""
    options: dict[str, Any] = {"max_new_tokens": NEW, "ignore_eos": True, **SAMPLED}
    settings = [SamplingParams(seed=seed, **options) for seed in range(len(prompts))]
    model: Any = make_model("llama")
    with Engine(model.to(device), **SIZES, prefix_caching=False, speculate="off") as engine:
        alone = []
        for prompt, params in zip(prompts, settings, strict=True):
            alone.append(engine.submit(prompt, params))
            run_to_end(engine)
        together = [engine.submit(prompt, params) for prompt, params in zip(prompts, settings, strict=True)]
        run_to_end(engine)
    return sum(one.token_ids == other.token_ids for one, other in zip(alone, together, strict=True))


def _check_waits(recorder: Recorder) -> None:
    if not recorder.on_gpu:
        recorder.skip("syncs", "needs a CUDA device")
        return
    waits = {greedy: waits_of_steps(recorder.device, greedy=greedy) for greedy in (True, False)}
    recorder.claim(
        "syncs",
        all(count <= SYNC_STEPS for count in waits.values()),
        f"{waits[True]} in {SYNC_STEPS} greedy steps, {waits[False]} in {SYNC_STEPS} sampled steps",
    )


def waits_of_steps(device: torch.device, *, greedy: bool) -> int:
    """Return how often torch waits for the device in decode steps of several sequences."""
    options: dict[str, Any] = {"temperature": 0} if greedy else dict(SAMPLED)
    model: Any = make_model("llama")
    with Engine(model.to(device), **SIZES, speculate="off") as engine:
        handles = [
            engine.submit(prompt, SamplingParams(max_new_tokens=32, ignore_eos=True, seed=0, **options))
            for prompt in random_prompts(SIZES["max_sequences"])
        ]
        while not all(len(handle.token_ids) > 1 for handle in handles):  # kernels are compiled by then
            engine.step()
        with counted_waits() as waits:
            for _ in range(SYNC_STEPS):
                engine.step()
    return len(waits)


@contextmanager
def counted_waits() -> Iterator[list[str]]:
    """Collect torch's warnings about operations that wait for the GPU."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            found += [str(each.message) for each in caught if "synchroniz" in str(each.message)]
