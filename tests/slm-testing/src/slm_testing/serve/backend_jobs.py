"""Running jobs on a backend, and the engine's answers to compare them with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from slm_adapters import load
from slm_kv import Engine, SamplingParams
from slm_serve import Answer, Backend, Delta, Job


def greedy_params(max_new_tokens: int, **options: Any) -> SamplingParams:
    """Return parameters for greedy sampling that ignores the end of text."""
    return SamplingParams(max_new_tokens=max_new_tokens, temperature=0, ignore_eos=True, **options)


async def collect_deltas(backend: Backend, jobs: Sequence[Job]) -> list[list[Delta]]:
    """Return the deltas of each job, once all jobs are finished."""
    for job in jobs:
        backend.check(job)
    answer = Answer(len(jobs))
    collected: list[list[Delta]] = [[] for _ in jobs]
    backend.submit(jobs, answer)
    try:
        async for index, delta in answer:
            collected[index].append(delta)
    finally:
        answer.close()
    return collected


def generate_with_engine(
    base: str | Path, adapter: str | Path | None, prompts: Sequence[Sequence[int]], params: Any
) -> list[Any]:
    """Return the handles of slm_kv's engine for ``prompts``, in float32, with the adapter unmerged."""
    loaded = load(base, adapter, dtype=torch.float32, device="cpu")
    with Engine(loaded.model, loaded.tokenizer) as engine:
        return engine.generate(prompts, params)


@torch.no_grad()
def logit_gap(model: PreTrainedModel, prompt: Sequence[int], ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Return the difference of the logits of both texts' tokens at the first position where they differ, else 0."""
    differing = [
        position for position, (our_id, their_id) in enumerate(zip(ours, theirs, strict=True)) if our_id != their_id
    ]
    if not differing:
        return 0.0
    position = differing[0]
    logits = model(input_ids=torch.tensor([[*prompt, *ours[:position]]]), use_cache=False).logits[0, -1]
    return float((logits[ours[position]] - logits[theirs[position]]).abs())
