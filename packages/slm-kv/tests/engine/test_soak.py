"""Thousands of random requests on a pool that is too small for them: nothing leaks and none is lost."""

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch

from slm_kv import Engine, Handle, KVError, SamplingParams
from slm_kv.engine.requests import Update
from slm_testing.kv.tiny_models import VOCABULARY, greedy_params, make_model, random_prompts

POISON = VOCABULARY - 1  # its embedding is NaN
BEGINNINGS = random_prompts(6, longest=16, seed=1)
PROMPTS = [beginning + end for beginning in BEGINNINGS for end in random_prompts(6, longest=8, seed=2)]
REFUSED = [
    ([], 4, "the prompt is empty"),
    ([1, VOCABULARY], 4, "outside the vocabulary"),
    ([-1], 4, "outside the vocabulary"),
    ("text", 4, "no tokenizer"),
    ([1] * 65, 1, "64 positions"),
    ([1] * 60, 60, "need 119 tokens of context"),
]


@dataclass
class Soak:
    """Makes random requests and counts what happens to them."""

    engine: Engine
    source: random.Random
    handles: list[Handle] = field(default_factory=list)
    finishing_updates: Counter[int] = field(default_factory=Counter)  # by handle
    counts: Counter[str] = field(default_factory=Counter)

    def run(self, requests: int) -> None:
        """Submit bursts of requests, more than fit, with steps and cancellations in between."""
        while self.counts["requests"] < requests:
            for _ in range(self.source.choice((1, 1, 2, 3, 20))):
                self.submit_random()
            for _ in range(self.source.randint(0, 12)):
                self.count(self.engine.step())
            if self.source.random() < 0.5 and self.handles:
                self.cancel()
            self.engine.pool.check_integrity()
        while self.engine.busy:
            self.count(self.engine.step())

    def submit_random(self) -> None:
        self.counts["requests"] += 1
        chance = self.source.random()
        if chance < 0.03:
            self.submit_invalid()
        elif chance < 0.04:
            prompt = [*self.source.choice(BEGINNINGS), POISON, 5]
            self.submit(prompt, greedy_params(4))
        else:
            self.submit(self.source.choice(PROMPTS), self.params())

    def submit_invalid(self) -> None:
        prompt, new, message = self.source.choice(REFUSED)
        with pytest.raises(KVError, match=message):
            self.engine.submit(prompt, greedy_params(new))
        with pytest.raises(KVError, match="no adapter is called 'none'"):
            self.engine.submit([1], greedy_params(1), adapter="none")
        self.counts["refused"] += 1

    def params(self) -> SamplingParams:
        new = self.source.randint(1, 24)
        if self.source.random() < 0.5:
            return greedy_params(new, prompt_logprobs=self.source.choice((None, None, None, 0)))
        return SamplingParams(
            max_new_tokens=new,
            temperature=self.source.choice((0.5, 1.0)),
            top_p=self.source.choice((0.8, 1.0)),
            repetition_penalty=self.source.choice((1.0, 1.3)),
            seed=self.source.randrange(1000),
            stop_token_ids=(7,),
        )

    def submit(self, prompt: list[int], params: SamplingParams) -> None:
        self.handles.append(self.engine.submit(prompt, params))

    def cancel(self) -> None:
        handle = self.source.choice(self.handles[-16:])
        running = not handle.finished
        assert self.engine.cancel(handle) is running
        self.counts["cancelled"] += running

    def count(self, updates: list[Update]) -> None:
        self.counts["steps"] += 1
        for update in updates:
            self.finishing_updates[update.handle.id] += update.finished


def check(soak: Soak) -> None:
    """Assert that each request finished once, for a plausible reason, and that greedy texts of one prompt agree."""
    assert soak.finishing_updates == {handle.id: 1 for handle in soak.handles}
    texts: dict[tuple[int, ...], list[int]] = {}
    for handle in soak.handles:
        poisoned = POISON in (*handle.prompt_ids, *handle.token_ids)
        lengths = {"length": len(handle.token_ids) == handle.params.max_new_tokens, "cancelled": True}
        stopped = handle.token_ids[-1:] in ([7], [0])
        assert {**lengths, "error": poisoned, "stop": stopped}[handle.finish_reason or ""], handle
        assert handle.finish_reason != "error" or "NaN logits" in (handle.error or "")
        assert POISON not in handle.prompt_ids or handle.finish_reason in ("error", "cancelled")
        soak.counts[f"ended: {handle.finish_reason}"] += 1
        if handle.params.greedy:
            longest = texts.setdefault(handle.prompt_ids, [])
            common = min(len(longest), len(handle.token_ids))
            assert handle.token_ids[:common] == longest[:common]
            longest += handle.token_ids[common:]
    assert soak.counts["ended: cancelled"] == soak.counts["cancelled"]
    assert len(soak.handles) + soak.counts["refused"] == soak.counts["requests"]


# 10,000: two minutes
@pytest.mark.parametrize("requests", [150, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("launches_ahead", [False, True])
def test_random_requests_leak_no_pages_and_all_finish(requests: int, launches_ahead: bool) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[POISON] = torch.nan
        model.get_output_embeddings().weight[POISON] = 0  # so that it is sampled rarely
    with Engine(model, page_size=4, max_pages=20, max_sequences=8, max_step_tokens=24) as engine:
        engine._launches_ahead = launches_ahead
        soak = Soak(engine, random.Random(requests))
        soak.run(requests)
        check(soak)
        pool = engine.pool
        pool.check_integrity()
        assert not engine.busy
        assert (pool.used_pages, pool.filled_slots) == (0, 0)
        pool.clear_cache()
        assert (pool.free_pages, pool.cached_pages) == (20, 0)
        assert engine.load().preemptions > requests / 50
        reused = sum(handle.reused_tokens > 0 for handle in soak.handles)
        assert reused > requests / 10
    print(dict(soak.counts), f"preemptions: {engine.load().preemptions}, prefixes reused: {reused}")
