"""Contenders that answer a workload greedily with the same weights: slm-kv's engine and transformers."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from slm_bench.errors import BenchError
from slm_bench.kv.engine.workload import Tokens, Workload
from slm_kv import SamplingParams, WeightOptions, create_engine

PAGED_ENGINE = "slm-kv engine"
PAGE_SIZE = 16
NO_TOKEN = -1  # as the end-of-sequence token: no text ends early
STEP_TOKENS = 256  # maximum rows of a step, for the engine and for transformers' continuous batching


class Contender(Protocol):
    """A program that answers workloads."""

    name: str

    def answer(self, work: Workload) -> list[Tokens]:
        """Return the new tokens of each request, in the order of requests."""

    def close(self) -> None:
        """Release models and processes."""


class SlmEngine:
    """slm-kv's engine for the model, with pages or without, without speculation, which its peers do not have either.

    Prefix caching is off: rounds repeat the same requests.

    Attributes:
        reason: Why the engine has no pages; None if it has.
    """

    def __init__(
        self, model: Any, max_sequences: int, pages: int, tokenizer: Any = None, options: WeightOptions | None = None
    ) -> None:
        self._engine = create_engine(
            copy.deepcopy(model),  # the engine packs its linear layers
            tokenizer,
            weights=options.weights if options else None,
            gate_text=options.gate_text if options else None,
            page_size=PAGE_SIZE,
            max_pages=pages,
            max_sequences=max_sequences,
            max_step_tokens=STEP_TOKENS,
            prefix_caching=False,
            speculate="off",  # random weights soon repeat themselves, which drafts would foresee
        )
        self.reason = self._engine.reason
        self.name = PAGED_ENGINE if self._engine.kind == "paged" else "slm-kv, TransformersEngine"

    def answer(self, work: Workload) -> list[Tokens]:
        engine = self._engine
        sampling = [SamplingParams(max_new_tokens=new, temperature=0, ignore_eos=True) for new in work.new]
        handles = [engine.submit(prompt, params) for prompt, params in zip(work.prompts, sampling, strict=True)]
        while engine.busy:
            engine.step()
        errors = [handle.error for handle in handles if handle.error]
        if errors:
            raise BenchError(errors[0])
        return [handle.token_ids for handle in handles]

    def close(self) -> None:
        self._engine.close()


class Generate:
    """transformers' ``generate`` on batches of requests in order of arrival, padded on the left.

    A batch runs until its longest answer is complete; surplus tokens of the others are cut off.
    """

    def __init__(self, model: Any, batch: int, name: str = "") -> None:
        default = f"HF generate, padded batches of {batch}" if batch > 1 else "HF generate, one by one"
        self.name = name or default
        self._model, self._batch = model, batch

    def answer(self, work: Workload) -> list[Tokens]:
        return [tokens for first in range(0, len(work.new), self._batch) for tokens in self._one_batch(work, first)]

    def close(self) -> None:
        """Do nothing: the model belongs to the caller."""

    @torch.inference_mode()
    def _one_batch(self, work: Workload, first: int) -> Iterator[Tokens]:
        prompts, new = work.prompts[first : first + self._batch], work.new[first : first + self._batch]
        width = max(map(len, prompts))
        input_ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.device
        output = self._model.generate(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max(new),
            eos_token_id=NO_TOKEN,
            do_sample=False,
            pad_token_id=0,
        )
        rows: list[Tokens] = output[:, width:].tolist()
        return (row[:count] for row, count in zip(rows, new, strict=True))


class ContinuousBatching:
    """transformers' continuous batching through the manager behind ``generate_batch``.

    ``generate_batch`` itself takes only one number of new tokens for all requests.
    """

    name = "HF generate_batch"

    def __init__(self, model: Any, tokens: int) -> None:
        self._stack = ExitStack()
        self._manager: Any = self._stack.enter_context(
            copy.deepcopy(model).continuous_batching_context_manager(
                generation_config=GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=NO_TOKEN),
                continuous_batching_config=ContinuousBatchingConfig(
                    # Without a limit transformers 5.19 sizes its pool by free memory: 13 GB on a machine with 25 GB.
                    num_blocks=-(-tokens // ContinuousBatchingConfig().page_size),
                    max_batch_tokens=STEP_TOKENS,
                    allow_block_sharing=False,
                ),
                timeout=5,
            )
        )

    def answer(self, work: Workload) -> list[Tokens]:
        manager, requests = self._manager, zip(work.prompts, work.new, strict=True)
        names = [manager.add_request(list(ids), max_new_tokens=new, eos_token_id=NO_TOKEN) for ids, new in requests]
        done: dict[str, Tokens] = {}
        while len(done) < len(names):
            result = manager.get_result(timeout=1)
            if result is None and not manager.is_running():
                raise BenchError("transformers' continuous batching stopped before all requests were answered")
            if result is not None and result.is_finished():
                done[result.request_id] = list(result.generated_tokens)
        return [done[name] for name in names]

    def close(self) -> None:
        self._stack.close()
