"""Truncating the distribution: top_k, top_p and min_p, in Hugging Face's order.

Shapes: V vocabulary, K tokens that are kept.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from slm_kv.sampling.params import SamplingParams
from slm_kv.sampling.scores import indices_at_least, largest

FIRST_CANDIDATES = 2048  # the likeliest tokens, among which top_p is tried before all tokens are sorted


def truncate(scores_V: Tensor, params: SamplingParams) -> tuple[Tensor | None, Tensor]:
    """Keep the tokens that ``params`` allows.

    Returns:
        Their ids [K] in ascending order, or None for all tokens; and their weights [K], of which the largest is 1.
    """
    ids_K, scores_K = None, scores_V
    if params.greedy:
        return torch.tensor([int(scores_V.numpy().argmax())]), torch.ones(1, dtype=torch.float64)
    if 0 < params.top_k < len(scores_V):
        ids_K = indices_at_least(scores_V, float(largest(scores_V, params.top_k)[-1]))
        scores_K = scores_V.index_select(0, ids_K)
    weights_K = _weights(scores_K, scores_K.numpy().max(), params.temperature)
    if params.top_p < 1:
        ids_K, weights_K = _select(ids_K, weights_K, _nucleus(scores_K, float(weights_K.sum()), params))
    if params.min_p > 0:
        ids_K, weights_K = _select(ids_K, weights_K, indices_at_least(weights_K, params.min_p))
    return ids_K, weights_K


def _select(ids_K: Tensor | None, weights_K: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    return indices if ids_K is None else ids_K[indices], weights_K.index_select(0, indices)


def _weights(scores_K: Tensor, maximum: float, temperature: float) -> Tensor:
    """exp((score - maximum) / temperature). The exponent is never positive, so that no temperature overflows."""
    return (scores_K - maximum).div_(temperature).exp_()


def _nucleus(scores_K: Tensor, total: float, params: SamplingParams) -> Tensor:
    """Indices, ascending, of the likeliest tokens up to the one that brings their weight to top_p of ``total``.

    Of several tokens that share the lowest kept score, those with the highest ids are kept, as by Hugging Face's stable
    sort.
    """
    size, target = len(scores_K), params.top_p * total
    for count in (FIRST_CANDIDATES, size):
        candidates = largest(scores_K, count)
        weights = _weights(candidates, float(candidates[0]), params.temperature)
        weight_before = weights.cumsum(0) - weights
        if weight_before[-1] >= target or count >= size:
            break
    kept = max(int(np.searchsorted(weight_before.numpy(), target)), 1)
    last_score = float(candidates[kept - 1])
    indices = indices_at_least(scores_K, last_score)
    tied = np.flatnonzero(scores_K.index_select(0, indices).numpy() == last_score)
    return torch.from_numpy(np.delete(indices.numpy(), tied[: len(indices) - kept]))
