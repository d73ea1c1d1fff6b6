"""Decoding in bfloat16: the engine with and without CUDA graphs, transformers, and the limit by bandwidth."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gpu_checks.engine_features import Graphs, graph_settings
from gpu_checks.measuring import cached_bytes, copy_bandwidth, read_weights, synchronized_time
from gpu_checks.models import new_model
from gpu_checks.recorder import Recorder
from slm_kv import Engine, SamplingParams
from slm_testing.kv.step_breakdown import timed_parts

PAGE_SIZE = 16
WARM_STEPS, TIMED_PARTS_STEPS = 4, 8
SAMPLING: dict[str, dict[str, Any]] = {"greedy": {"temperature": 0.0}, "top-p": {"temperature": 0.8, "top_p": 0.9}}
COLUMNS = (
    "sequences", "sampling", "graphs", "tokens/s", "of the limit", "transformers, tokens/s", "step, ms", "forward, ms",
    "sampling, ms", "host, ms",
)  # fmt: skip
NOTE = (
    "The limit is one read of the weights for each step, and of each sequence's keys and values, at the measured copy "
    "bandwidth. Forward, sampling and host are timed in steps of their own, in which the device is waited for."
)


@dataclass(frozen=True)
class Decoding:
    """Seconds of a decode step, and of its parts."""

    step: float
    forward: float
    sampling: float
    host: float


def run(recorder: Recorder) -> None:
    """Measure all numbers of sequences, greedily and with top-p, and record the claims."""
    model = new_model(recorder.sizes.speed_model, recorder.device, torch.bfloat16)
    cases = [(count, name) for count in recorder.sizes.sequences for name in SAMPLING]
    peers = {case: _peer_rate(recorder, model, *case) for case in cases}
    limits, rows, measured = _limits(recorder, model), [], dict[tuple[str, int, str], Decoding]()
    for graphs in graph_settings(recorder.device):
        with _engine(recorder, model, graphs) as engine:
            for count, name in cases:
                decoding = measured[graphs, count, name] = decode(recorder, engine, count, SAMPLING[name])
                rate = count / decoding.step
                times = (decoding.step, decoding.forward, decoding.sampling, decoding.host)
                shares = [rate, f"{rate / limits[count]:.0%}", peers[count, name]]
                rows.append([count, name, graphs, *shares, *(1000 * seconds for seconds in times)])
                recorder.table(f"Decoding, {recorder.sizes.speed_model}, bfloat16", COLUMNS, rows, NOTE)
    _record_claims(recorder, measured, peers)


def decode(recorder: Recorder, engine: Engine, count: int, options: dict[str, Any]) -> Decoding:
    """Decode ``count`` sequences: timed as a whole, and then for a few steps part by part."""
    sizes, device = recorder.sizes, recorder.device
    extra = WARM_STEPS + TIMED_PARTS_STEPS
    settings = [
        SamplingParams(max_new_tokens=sizes.new_tokens + extra, ignore_eos=True, seed=seed, **options)
        for seed in range(count)
    ]
    requests = zip(_prompts(recorder, count), settings, strict=True)
    handles = [engine.submit(prompt, params) for prompt, params in requests]
    while not all(len(handle.token_ids) >= WARM_STEPS for handle in handles):
        engine.step()
    start, before = synchronized_time(device), sum(len(handle.token_ids) for handle in handles)
    for _ in range(sizes.new_tokens - WARM_STEPS):
        engine.step()
    seconds = synchronized_time(device) - start
    steps = (sum(len(handle.token_ids) for handle in handles) - before) / count  # a few have ended if they began early
    with timed_parts(engine) as parts:
        start = synchronized_time(device)
        for _ in range(TIMED_PARTS_STEPS):
            engine.step()
        whole = synchronized_time(device) - start
    while engine.busy:
        engine.step()
    if errors := [handle.error for handle in handles if handle.error]:
        raise RuntimeError(f"a request of {count} failed: {errors[0]}")
    each = (parts.forward, parts.sampling, whole - parts.forward - parts.sampling)
    return Decoding(seconds / steps, *(part / TIMED_PARTS_STEPS for part in each))


@contextmanager
def _engine(recorder: Recorder, model: Any, graphs: Graphs) -> Iterator[Engine]:
    sizes, most = recorder.sizes, max(recorder.sizes.sequences)
    tokens = sizes.prompt_tokens + sizes.new_tokens + WARM_STEPS + TIMED_PARTS_STEPS
    with Engine(
        model,
        page_size=PAGE_SIZE,
        max_pages=most * -(-tokens // PAGE_SIZE),
        max_sequences=most,
        max_step_tokens=most * sizes.prompt_tokens,  # all prompts in one step, so that all sequences begin together
        prefix_caching=False,
        speculate="off",
        cuda_graphs=graphs,
    ) as engine:
        yield engine
    gc.collect()
    if recorder.on_gpu:
        torch.cuda.empty_cache()


def _prompts(recorder: Recorder, count: int) -> list[list[int]]:
    source = random.Random(0)
    return [[source.randrange(1, 2048) for _ in range(recorder.sizes.prompt_tokens)] for _ in range(count)]


@torch.inference_mode()
def _peer_rate(recorder: Recorder, model: Any, count: int, name: str) -> float:
    """Return the tokens per second of transformers' ``generate``, without the prompt's step."""
    ids = torch.tensor(_prompts(recorder, count), device=recorder.device)
    options = {"do_sample": False} if name == "greedy" else {"do_sample": True, "top_k": 0, **SAMPLING[name]}

    def generate(new: int) -> float:
        start = synchronized_time(recorder.device)
        settings = {"max_new_tokens": new, "min_new_tokens": new, "pad_token_id": 0, **options}
        model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return synchronized_time(recorder.device) - start

    generate(2)
    new = recorder.sizes.new_tokens
    return count * (new - 1) / max(generate(new) - generate(1), 1e-9)


def _limits(recorder: Recorder, model: Any) -> dict[int, float]:
    """Return the tokens per second at each number of sequences if nothing took time but reading memory."""
    bandwidth = copy_bandwidth(recorder.device, recorder.sizes.copied_bytes)
    length = recorder.sizes.prompt_tokens + recorder.sizes.new_tokens / 2
    weights, cached = read_weights(model), cached_bytes(model) * length
    return {count: count * bandwidth / (weights + count * cached) for count in recorder.sizes.sequences}


def _record_claims(
    recorder: Recorder, measured: Mapping[tuple[str, int, str], Decoding], peers: Mapping[tuple[int, str], float]
) -> None:
    ratios = {}
    for count in recorder.sizes.sequences:
        steps = [each.step for case, each in measured.items() if case[1:] == (count, "greedy")]
        ratios[count] = count / min(steps) / peers[count, "greedy"]
    observed = ", ".join(f"{ratio:.3g} times at {count}" for count, ratio in ratios.items())
    recorder.speed_claim("transformers", min(ratios.values()) >= 1, observed)
    if not recorder.on_gpu:
        recorder.skip("graphs", "needs a CUDA device")
    else:
        ratio = measured["off", 1, "greedy"].step / measured["auto", 1, "greedy"].step
        recorder.speed_claim("graphs", ratio > 1, f"{ratio:.3g} times as fast")
