"""transformers' own results, with which the packages' are compared.

Shapes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from slm_testing.zoo.architecture import POSITIONS, VOCABULARY
from slm_testing.zoo.models import shared

SPECIAL_IDS = 2  # the ids below are special tokens
LOGPROB_TOLERANCE = 2e-3
CACHE_TOLERANCE = 1e-3  # relative difference of logits between ``generate`` and one pass over the whole text


@dataclass(frozen=True)
class Generation:
    """The greedy continuation of a prompt, and the logits ``[new, V]`` from which each token was chosen."""

    token_ids: tuple[int, ...]
    logits: Tensor


def random_ids(count: int, seed: int = 0) -> tuple[int, ...]:
    """Return ``count`` ordinary tokens."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(SPECIAL_IDS, VOCABULARY, (count,), generator=generator).tolist())


def positions_of(model: Any) -> int:
    """Return the number of tokens that a model can have in a row."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or POSITIONS


def longrope_switch(model: Any) -> int:
    """Return the length of a row from which the rotary factors of its whole batch are others, as longrope has it."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return rope["original_max_position_embeddings"] if rope.get("rope_type") == "longrope" else POSITIONS


@torch.inference_mode()
def logits_of(model: Any, ids: Sequence[int] | Tensor, **inputs: Tensor) -> Tensor:
    """Return the logits ``[B, T, V]`` of ``ids``, computed as in training: without a mask or a cache."""
    rows = torch.as_tensor(ids)
    logits: Tensor = model(input_ids=rows if rows.dim() == 2 else rows[None], use_cache=False, **inputs).logits
    return logits


@cache
@torch.inference_mode()
def generated(name: str, prompt: tuple[int, ...], new: int, dtype: torch.dtype = torch.float32) -> Generation:
    """Return what ``generate`` of transformers adds to ``prompt``, greedily, past any end of text."""
    ids = torch.tensor([prompt])
    settings: Any = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": new}
    model: Any = shared(name, dtype)
    # Without an explicit mask, ``generate`` takes each pad token in the prompt for padding.
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True, **settings
    )
    return Generation(tuple(output.sequences[0, len(prompt) :].tolist()), torch.cat(output.logits).float())


@torch.inference_mode()
def recomputed(name: str, prompt: tuple[int, ...], token_ids: Sequence[int]) -> Generation:
    """Return the likeliest tokens after ``prompt`` and each of ``token_ids``, from one pass over the whole text."""
    logits = logits_of(shared(name), [*prompt, *token_ids])[0, len(prompt) - 1 : -1]
    return Generation(tuple(logits.argmax(-1).tolist()), logits)


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the standard deviation of ``expected``."""
    return float((actual - expected).abs().max() / expected.std())


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-3) -> None:
    """Raise AssertionError if the relative difference exceeds ``tolerance``."""
    difference = relative_difference(actual, expected)
    assert difference <= tolerance, f"logits differ by {difference:.2g} of their standard deviation"


def assert_generated(handle: Any, name: str, dtype: torch.dtype = torch.float32) -> None:
    """Raise AssertionError if an engine's answer is not that of ``generate``.

    In transformers' own ``generate``, the cache of Zamba 2 and of RoBERTa changes the logits. Then an engine without a
    cache is right as well.
    """
    assert handle.finish_reason == "length", f"{handle.finish_reason}: {handle.error}"
    expected = generated(name, handle.prompt_ids, len(handle.token_ids), dtype)
    try:
        _assert_same(handle, expected)
    except AssertionError:
        exact = recomputed(name, handle.prompt_ids, expected.token_ids)
        if relative_difference(expected.logits, exact.logits) <= CACHE_TOLERANCE:
            raise
        _assert_same(handle, recomputed(name, handle.prompt_ids, handle.token_ids))


def _assert_same(handle: Any, expected: Generation) -> None:
    """Compare log-probabilities at each step.

    Two tokens that are equally likely may be swapped by rounding; the texts differ from there on, so the rest is not
    compared.
    """
    steps: Iterable[Any] = zip(handle.token_ids, handle.logprobs, expected.token_ids, expected.logits, strict=True)
    for step, (token, sampled, expected_token, logits) in enumerate(steps):
        scores = logits.log_softmax(-1)
        difference = max(abs(float(scores[id]) - logprob) for id, logprob in sampled.top)
        assert difference <= LOGPROB_TOLERANCE, f"token {step}: log-probabilities differ by {difference:.2g}"
        if token != expected_token:
            gap = float(scores.max() - scores[token])
            assert gap <= 2 * LOGPROB_TOLERANCE, f"token {step} is {token}, not {expected_token}"
            return
