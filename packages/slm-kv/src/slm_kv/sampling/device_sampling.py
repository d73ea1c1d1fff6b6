"""Sampling the next tokens of many rows on the device that holds their logits: only the tokens leave it.

A row's token is that of ``TokenSampler``: the same truncation, and the cumulative distribution, in order of token ids,
inverted at the same random number. So it depends on the row's logits and number only, not on the rows beside it.

Shapes: R rows, G of them at a time, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slm_kv.sampling.params import SamplingParams

INVALID = -1  # in place of a token: the largest logit is NaN or infinite
MAX_NUMBERS = 2**24  # scores that are sampled from at a time: 128 MB in float64, and as much in each of a few copies


@dataclass(frozen=True)
class SampledRow:
    """How to sample a row: by ``params``, of which penalties, biases and the grammar are ignored.

    Attributes:
        params: The settings.
        number: A random number in [0, 1).
    """

    params: SamplingParams
    number: float


@torch.inference_mode()
def sample_rows(logits_RV: Tensor, rows: Sequence[SampledRow]) -> Tensor:
    """Sample a token for each row. The device is not waited for.

    Returns:
        [R] int64 token ids, or INVALID.
    """
    highest_R, tokens_R = logits_RV.max(dim=1)
    drawn = [index for index, row in enumerate(rows) if not row.params.greedy]
    size = max(1, MAX_NUMBERS // logits_RV.shape[1])
    for first in range(0, len(drawn), size):
        indices = drawn[first : first + size]
        indices_G = on_device(indices, torch.long, logits_RV.device)
        tokens_R.index_copy_(0, indices_G, _draw(logits_RV[indices_G], [rows[index] for index in indices]))
    return torch.where(highest_R.isfinite(), tokens_R, INVALID)


def on_device(
    numbers: Sequence[float] | Sequence[tuple[float, ...]], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Copy numbers to the device, from pinned memory: the copy waits for nothing."""
    return torch.tensor(numbers, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def _draw(logits_RV: Tensor, rows: Sequence[SampledRow]) -> Tensor:
    scores_RV, device = logits_RV.double(), logits_RV.device
    settings = [(row.params.temperature, row.params.min_p, row.number) for row in rows]
    temperature_R1, min_p_R1, number_R1 = on_device(settings, torch.float64, device).T.unsqueeze(2)
    weights_RV = ((scores_RV - scores_RV.amax(1, keepdim=True)) / temperature_R1).exp()
    if any(row.params.top_k or row.params.top_p < 1 for row in rows):
        weights_RV *= _kept(scores_RV, weights_RV, [row.params for row in rows])
    weights_RV *= weights_RV >= min_p_R1
    cumulative_RV = weights_RV.cumsum(1)
    total_R1 = cumulative_RV[:, -1:]
    # A product that was rounded up to the total would find no token.
    target_R1 = torch.minimum(number_R1 * total_R1, total_R1.nextafter(torch.zeros_like(total_R1)))
    return torch.searchsorted(cumulative_RV, target_R1, right=True)[:, 0]


def _kept(scores_RV: Tensor, weights_RV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Which tokens top_k and top_p keep, [R, V].

    Of several tokens with the lowest kept score, top_k keeps all, and top_p those with the highest ids.
    """
    size, device = scores_RV.shape[1], scores_RV.device
    sorted_RV, order_RV = scores_RV.sort(dim=1, stable=True)  # ascending; of equal scores, the lowest id comes first
    last_R = [size - each.top_k if 0 < each.top_k < size else 0 for each in params]
    lowest_R1 = sorted_RV.gather(1, on_device(last_R, torch.long, device)[:, None])
    likeliest_first_RV = (weights_RV.gather(1, order_RV) * (sorted_RV >= lowest_R1)).flip(1)
    before_RV = likeliest_first_RV.cumsum(1) - likeliest_first_RV
    shares = [each.top_p if each.top_p < 1 else math.inf for each in params]
    total_R1 = likeliest_first_RV.sum(1, keepdim=True)
    is_kept_RV = before_RV < on_device(shares, torch.float64, device)[:, None] * total_R1
    is_kept_RV[:, 0] = True
    return torch.empty_like(is_kept_RV).scatter_(1, order_RV, is_kept_RV.flip(1)) & (scores_RV >= lowest_R1)
