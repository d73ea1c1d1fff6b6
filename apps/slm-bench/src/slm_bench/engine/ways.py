"""The ways to answer a workload: the engine, and what people use beside it. All greedy, all by the same weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from slm_bench.engine.workload import Tokens, Workload
from slm_kv import Engine, KVError, SamplingParams

PAGE_SIZE = 16
NO_TOKEN = -1  # ends a text: none does
STEP_TOKENS = 256  # rows a step at most, of the engine and of transformers' continuous batching


class Way(Protocol):
    """One way to answer requests."""

    name: str

    def answer(self, work: Workload) -> list[Tokens]:
        """The new tokens of each request, in their order."""

    def close(self) -> None:
        """Give back what it holds."""


class Ours:
    """The engine. No prefix is kept: the same requests come again each turn, and nobody is to know them."""

    name = "slm-kv engine"

    def __init__(self, model: Any, max_sequences: int, pages: int) -> None:
        self._engine = Engine(
            copy.deepcopy(model),
            page_size=PAGE_SIZE,
            max_pages=pages,
            max_sequences=max_sequences,
            max_step_tokens=STEP_TOKENS,
            prefix_caching=False,
        )

    @property
    def summary(self) -> str:
        return self._engine.summary

    def answer(self, work: Workload) -> list[Tokens]:
        engine = self._engine
        asked = [SamplingParams(max_new_tokens=new, temperature=0, ignore_eos=True) for new in work.new]
        handles = [engine.submit(prompt, params) for prompt, params in zip(work.prompts, asked, strict=True)]
        while engine.busy:
            engine.step()
        failed = [handle.error for handle in handles if handle.error]
        if failed:
            raise KVError(failed[0])
        return [handle.token_ids for handle in handles]

    def close(self) -> None:
        self._engine.close()


class Generate:
    """transformers' ``generate``, ``batch`` requests at a time in the order they came, padded on the left. Each batch
    goes on until its longest answer is there; what the others got beyond theirs is cut off."""

    def __init__(self, model: Any, batch: int, name: str = "") -> None:
        alone = "HF generate, one by one"
        self.name = name or (f"HF generate, padded batches of {batch}" if batch > 1 else alone)
        self._model, self._batch = model, batch

    def answer(self, work: Workload) -> list[Tokens]:
        return [tokens for first in range(0, len(work.new), self._batch) for tokens in self._one_batch(work, first)]

    def close(self) -> None:
        """The model is the caller's."""

    @torch.inference_mode()
    def _one_batch(self, work: Workload, first: int) -> Iterator[Tokens]:
        prompts, new = work.prompts[first : first + self._batch], work.new[first : first + self._batch]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.device
        found = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max(new),
            eos_token_id=NO_TOKEN,
            do_sample=False,
            pad_token_id=0,
        )
        rows: list[Tokens] = found[:, width:].tolist()
        return (row[:count] for row, count in zip(rows, new, strict=True))


class Continuous:
    """transformers' continuous batching: the manager that ``generate_batch`` starts, kept over all turns, since
    ``generate_batch`` itself knows only one number of new tokens for all."""

    name = "HF generate_batch"

    def __init__(self, model: Any, tokens: int) -> None:
        self._stack = ExitStack()
        self._manager: Any = self._stack.enter_context(
            copy.deepcopy(model).continuous_batching_context_manager(
                generation_config=GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=NO_TOKEN),
                continuous_batching_config=ContinuousBatchingConfig(
                    num_blocks=-(-tokens // ContinuousBatchingConfig().page_size),  # unsaid it takes 13 GB here
                    max_batch_tokens=STEP_TOKENS,
                    allow_block_sharing=False,
                ),
                timeout=5,
            )
        )

    def answer(self, work: Workload) -> list[Tokens]:
        pairs = zip(work.prompts, work.new, strict=True)
        names = [
            self._manager.add_request(list(prompt), max_new_tokens=new, eos_token_id=NO_TOKEN) for prompt, new in pairs
        ]
        done: dict[str, Tokens] = {}
        while len(done) < len(names):
            result = self._manager.get_result(timeout=1)
            if result is None and not self._manager.is_running():
                raise KVError("transformers' continuous batching ended with requests unanswered")
            if result is not None and result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
        return [done[name] for name in names]

    def close(self) -> None:
        self._stack.close()
