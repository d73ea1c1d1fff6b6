"""Sampling the same logits on the host and on a device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slm_kv import SamplingParams
from slm_kv.sampling.device_sampling import sample_rows
from slm_kv.sampling.sampler import TokenSampler


def sample_on_both(
    logits_RV: Tensor, settings: Sequence[SamplingParams], device: torch.device
) -> tuple[list[int], list[int]]:
    """Sample a token for each row of logits, on the host by ``TokenSampler`` and on ``device``. Returns both."""
    vocabulary = logits_RV.shape[1]
    host, other = ([TokenSampler(params, (), vocabulary) for params in settings] for _ in range(2))
    expected = [sampler.sample(logits_V).token_id for sampler, logits_V in zip(host, logits_RV, strict=True)]
    rows = [row for sampler in other for row in sampler.next_rows(1)]
    return expected, sample_rows(logits_RV.to(device), rows).tolist()
