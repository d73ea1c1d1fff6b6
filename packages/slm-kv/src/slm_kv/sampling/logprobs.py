"""Sampled tokens with their log-probabilities.

Shapes: V vocabulary, T rows of a prompt, R rows of any texts, K candidate tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slm_kv.sampling.scores import check_finite, indices_at_least, largest, valid_scores

MAX_NUMBERS = 2**24  # scores that are sorted at a time: 128 MB in float64, and as much in a few copies


@dataclass(frozen=True)
class SampledToken:
    """A token; if requested, its log-probability and those of the likeliest tokens.

    Log-probabilities are those of the model: before penalties, temperature and truncation.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def with_logprobs(logits_V: Tensor, token: int, top: int | None) -> SampledToken:
    """Describe ``token`` with its log-probability and those of the ``top`` likeliest tokens; None adds none."""
    if top is None:
        return SampledToken(token)
    scores_V = valid_scores(logits_V)
    log_total = float(scores_V.logsumexp(0))
    logprob = float(scores_V[token]) - log_total
    if top == 0:
        return SampledToken(token, logprob)
    ids_K = indices_at_least(scores_V, float(largest(scores_V, top)[-1]))
    order = scores_V[ids_K].argsort(descending=True, stable=True)[:top]
    return SampledToken(token, logprob, tuple((int(id), float(scores_V[id]) - log_total) for id in ids_K[order]))


def prompt_logprobs(logits_TV: Tensor, token_ids: Sequence[int], top: int) -> list[SampledToken]:
    """Describe tokens of a prompt, each predicted by its row of the logits, with the ``top`` likeliest beside each."""
    return [with_logprobs(logits_V, token, top) for logits_V, token in zip(logits_TV, token_ids, strict=True)]


@torch.inference_mode()
def logprob_numbers(logits_RV: Tensor, tokens_R: Tensor, top: int) -> Tensor:
    """Compute on the device of the logits what ``described_token`` needs. The device is not waited for.

    Args:
        logits_RV: The logits.
        tokens_R: The token of each row. A negative one stands for none.
        top: The number of likeliest tokens to report beside it.

    Returns:
        [R, 2 + 2 K] float64, K the smaller of ``top`` and V: the largest logit, the token's log-probability, the
        likeliest tokens' ids and their log-probabilities. Of equally likely tokens, the lowest ids come first.
    """
    size = max(1, MAX_NUMBERS // logits_RV.shape[1])
    groups = zip(logits_RV.split(size), tokens_R.split(size), strict=True)
    return torch.cat([_logprob_numbers(*group, top) for group in groups])


def _logprob_numbers(logits_RV: Tensor, tokens_R: Tensor, top: int) -> Tensor:
    scores_RV = logits_RV.double()
    total_R1 = scores_RV.logsumexp(1, keepdim=True)
    own_R1 = scores_RV.gather(1, tokens_R.clamp(min=0)[:, None]) - total_R1
    numbers = [scores_RV.amax(1, keepdim=True), own_R1]
    if top:
        sorted_RV, ids_RV = scores_RV.sort(dim=1, descending=True, stable=True)
        numbers += [ids_RV[:, :top].double(), sorted_RV[:, :top] - total_R1]
    return torch.cat(numbers, 1)


def described_token(token: int, numbers: Sequence[float], top: int) -> SampledToken:
    """Describe ``token`` by its row of ``logprob_numbers``, with the ``top`` likeliest tokens or fewer.

    Raises:
        InvalidLogits: the largest logit is NaN or infinite.
    """
    check_finite(numbers[0])
    candidates = len(numbers) // 2 - 1
    ids, logprobs = numbers[2 : 2 + min(top, candidates)], numbers[2 + candidates :]
    return SampledToken(
        token, float(numbers[1]), tuple((int(id), float(each)) for id, each in zip(ids, logprobs, strict=False))
    )
