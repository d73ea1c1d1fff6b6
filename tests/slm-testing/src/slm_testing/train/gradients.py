"""Comparison of gradients."""

from __future__ import annotations

import torch


def relative_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of two gradients, relative to the norm of the first."""
    assert first
    assert first.keys() == second.keys()
    zero = torch.zeros((), dtype=torch.float64)
    norm = torch.sqrt(sum((g.square().sum() for g in first.values()), zero))
    assert norm > 0
    return float(torch.sqrt(sum(((first[n] - second[n]).square().sum() for n in first), zero)) / norm)
