"""A step's results on a device other than a CPU: what the host needs of them is computed there and fetched in one copy.

Shapes: R rows of one item of work, S sampled rows, N rows of several items, K numbers for a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from slm_kv.engine.scheduler import Work
from slm_kv.engine.scoring import ScoringSequence, score_numbers
from slm_kv.engine.step.step_results import Item, NanKeys, StepResult, Wait
from slm_kv.sampling.device_sampling import INVALID, on_device, sample_rows
from slm_kv.sampling.logprobs import SampledToken, described_token, logprob_numbers

Name = Literal["tokens", "logprobs", "prompt logprobs", "scores", "nan keys"]


def device_results(items: Sequence[Item], nan_keys: NanKeys) -> Wait:
    """Start to compute the results. The function that is returned waits for the device.

    Tokens are sampled on the device unless they depend on the text so far (penalties, ``logit_bias``,
    ``min_new_tokens``, grammars): the logits of these requests are copied to the host.
    """
    numbers = _Numbers(list(items))
    try:
        with torch.inference_mode():
            numbers.compute(nan_keys)
    except torch.OutOfMemoryError:  # the host samples one row at a time
        numbers = _Numbers(list(items), on_host=[index for index, (work, _) in enumerate(items) if work.needs_logits])
        numbers.check_keys(nan_keys)
    return numbers.wait


def fetch(parts: Sequence[Tensor]) -> list[np.ndarray]:
    """Copy several tensors to the host as float64, which holds token ids and float32 exactly, in one copy."""
    flat = torch.cat([part.double().flatten() for part in parts]).cpu().numpy()
    ends = np.cumsum([part.numel() for part in parts])[:-1]
    return [numbers.reshape(part.shape) for numbers, part in zip(np.split(flat, ends), parts, strict=True)]


@dataclass(frozen=True)
class _Part:
    """Numbers for rows of some items: their indices, how many rows each has, and the numbers on the device."""

    indices: list[int]
    counts: list[int]
    numbers_NK: Tensor


@dataclass
class _Numbers:
    """The numbers of a step's items, which the device computes.

    Attributes:
        items: The items.
        on_host: The indices of those whose tokens are sampled on the host.
        parts: The numbers.
    """

    items: list[Item]
    on_host: list[int] = field(default_factory=list)
    parts: dict[Name, _Part] = field(default_factory=dict)

    def compute(self, nan_keys: NanKeys) -> None:
        """Start to compute all numbers."""
        plain, prompts, scores = list[int](), list[int](), list[int]()
        for index, (work, _) in enumerate(self.items):
            is_score = isinstance(work.sequence, ScoringSequence)
            if work.sequence.needs_prompt_logits:
                (scores if is_score else prompts).append(index)
            if work.samples and not is_score:
                (plain if work.sequence.sampler.is_plain else self.on_host).append(index)
        self._sample(plain)
        self._describe_prompts(prompts)
        self._score(scores)
        self.check_keys(nan_keys)

    def check_keys(self, nan_keys: NanKeys) -> None:
        """Start to check the keys of the items that need it."""
        indices = [index for index, (work, _) in enumerate(self.items) if work.checks_keys]
        if indices:
            works = [self.items[index][0] for index in indices]
            self.parts["nan keys"] = _Part(indices, [work.count for work in works], nan_keys(works)[:, None])

    def wait(self) -> list[tuple[Work, StepResult]]:
        """Fetch the numbers, and the logits from which tokens are sampled on the host."""
        numbers = self._fetch()
        logits = dict(enumerate(logits_RV for _, logits_RV in self.items)) | self._fetch_logits()
        return [
            (work, StepResult(logits[index], *_host_values(work, numbers.get(index, {}))))
            for index, (work, _) in enumerate(self.items)
        ]

    def _sample(self, indices: list[int]) -> None:
        if not indices:
            return
        samplers = [self.items[index][0].sequence.sampler for index in indices]
        counts = [1 + len(self.items[index][0].draft) for index in indices]
        logits = [self.items[index][1][-count:] for index, count in zip(indices, counts, strict=True)]
        rows = [row for sampler, count in zip(samplers, counts, strict=True) for row in sampler.next_rows(count)]
        tokens_S = sample_rows(torch.cat(logits), rows)
        self.parts["tokens"] = _Part(indices, counts, tokens_S[:, None])
        tops = {
            number: each.params.logprobs for number, each in enumerate(samplers) if each.params.logprobs is not None
        }
        chosen = tokens_S.split(counts)
        pairs = {indices[number]: (logits[number], chosen[number]) for number in tops}
        self._describe("logprobs", pairs, max(tops.values(), default=0))

    def _describe_prompts(self, indices: list[int]) -> None:
        tops = [self.items[index][0].sequence.handle.params.prompt_logprobs or 0 for index in indices]
        self._describe("prompt logprobs", self._targets(indices), max(tops, default=0))

    def _describe(self, name: Name, pairs: dict[int, tuple[Tensor, Tensor]], top: int) -> None:
        """Describe the rows of some items by their logits and tokens."""
        if pairs:
            logits, tokens = zip(*pairs.values(), strict=True)
            numbers_NK = logprob_numbers(torch.cat(logits), torch.cat(tokens), top)
            self.parts[name] = _Part(list(pairs), [len(each) for each in tokens], numbers_NK)

    def _score(self, indices: list[int]) -> None:
        pairs = self._targets(indices)
        if pairs:
            logits, tokens = zip(*pairs.values(), strict=True)
            numbers_NK = score_numbers(torch.cat(logits), torch.cat(tokens))
            self.parts["scores"] = _Part(list(pairs), [len(each) for each in tokens], numbers_NK)

    def _targets(self, indices: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        """The logits that predict the next tokens of prompts, and these tokens; without items that have none."""
        targets = {index: self.items[index][0].sequence.prompt_targets(len(self.items[index][1])) for index in indices}
        targets = {index: tokens for index, tokens in targets.items() if tokens}
        if not targets:
            return {}
        flat = [token for tokens in targets.values() for token in tokens]
        parts = on_device(flat, torch.long, self.items[0][1].device).split([len(each) for each in targets.values()])
        return {
            index: (self.items[index][1][: len(tokens)], tokens) for index, tokens in zip(targets, parts, strict=True)
        }

    def _fetch(self) -> dict[int, dict[Name, np.ndarray]]:
        """The numbers [R, K] of each item."""
        by_item: dict[int, dict[Name, np.ndarray]] = {}
        if not self.parts:
            return by_item
        fetched = fetch([part.numbers_NK for part in self.parts.values()])
        for (name, part), numbers_NK in zip(self.parts.items(), fetched, strict=True):
            rows = np.split(numbers_NK, np.cumsum(part.counts)[:-1])
            for index, numbers_RK in zip(part.indices, rows, strict=True):
                by_item.setdefault(index, {})[name] = numbers_RK
        return by_item

    def _fetch_logits(self) -> dict[int, Tensor]:
        if not self.on_host:
            return {}
        logits = [self.items[index][1] for index in self.on_host]
        on_host = torch.cat(logits).cpu().split([len(each) for each in logits])
        return dict(zip(self.on_host, on_host, strict=True))


def _host_values(
    work: Work, numbers: Mapping[Name, np.ndarray]
) -> tuple[tuple[SampledToken | None, ...], list[list[float]] | None, bool]:
    """The tokens, the prompt's numbers and whether a key is NaN, of one item."""
    tokens = (
        tuple(_sampled_tokens(work, numbers["tokens"][:, 0], numbers.get("logprobs"))) if "tokens" in numbers else ()
    )
    prompt_RK = numbers.get("prompt logprobs", numbers.get("scores"))
    has_nan_keys = "nan keys" in numbers and bool(numbers["nan keys"].any())
    return tokens, None if prompt_RK is None else prompt_RK.tolist(), has_nan_keys


def _sampled_tokens(work: Work, tokens_R: np.ndarray, logprobs_RK: np.ndarray | None) -> Generator[SampledToken | None]:
    for row, token in enumerate(tokens_R.astype(int).tolist()):
        if token == INVALID:
            yield None
        elif logprobs_RK is None:
            yield SampledToken(token)
        else:
            yield described_token(token, logprobs_RK[row].tolist(), work.sequence.handle.params.logprobs or 0)
