"""Scores in float64 on the CPU, and the selections from them that sampling and logprobs need.

Shapes: V vocabulary, K candidate tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from slm_kv.errors import InvalidLogits


def valid_scores(logits_V: Tensor) -> Tensor:
    """Copy logits to float64 on the CPU.

    Raises:
        InvalidLogits: the largest is NaN or infinite.
    """
    scores_V = logits_V.detach().to("cpu", torch.float64, copy=True)
    check_finite(float(scores_V.numpy().max()))
    return scores_V


def likeliest(logits_V: Tensor) -> int:
    """Return the token with the largest logit; of equal ones the lowest id.

    Raises:
        InvalidLogits: the largest is NaN or infinite.
    """
    scores_V = logits_V.detach().float().cpu().numpy()  # numpy's argmax is faster than torch's on a CPU
    token = int(scores_V.argmax())
    check_finite(float(scores_V[token]))
    return token


def largest(scores_K: Tensor, count: int) -> Tensor:
    """The ``count`` largest scores (or all, if there are fewer) in descending order."""
    first, values = max(len(scores_K) - count, 0), scores_K.numpy()
    values = np.partition(values, first)[first:] if first else values
    return torch.from_numpy(np.sort(values)[::-1].copy())


def indices_at_least(scores_K: Tensor, bound: float) -> Tensor:
    """Indices of the scores of at least ``bound``, in ascending order."""
    return torch.from_numpy(np.flatnonzero(scores_K.numpy() >= bound))


def check_finite(largest_logit: float) -> None:
    """Raise InvalidLogits for NaN and infinity. A NaN anywhere makes the maximum NaN."""
    if not math.isfinite(largest_logit):
        problem = "NaN logits" if math.isnan(largest_logit) else f"{largest_logit} as its largest logit"
        raise InvalidLogits(f"the model gave {problem}; check its weights, or try dtype float32")
