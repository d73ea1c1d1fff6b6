"""Comparison of gradients."""

from __future__ import annotations

import torch


def relative_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one
    assert one.keys() == other.keys()
    zero = torch.zeros((), dtype=torch.float64)
    norm = torch.sqrt(sum((g.square().sum() for g in one.values()), zero))
    assert norm > 0
    return float(torch.sqrt(sum(((one[n] - other[n]).square().sum() for n in one), zero)) / norm)
