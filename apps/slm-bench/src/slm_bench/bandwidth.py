"""How fast this machine reads memory, and how much a model reads for one token."""

from __future__ import annotations

import time

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

MEGABYTES = 512


def memory_bandwidth(device: torch.device) -> float:
    """Bytes a second of the best of seven reads, by a sum, of half a gigabyte that no cache holds."""
    values = torch.ones(MEGABYTES * 1024 * 1024 // 4, device=device)
    best = float("inf")
    for _ in range(7):
        _wait(device)
        start = time.perf_counter()
        values.sum()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return values.nbytes / best


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the matrices that every token is multiplied with; an embedding is looked up, not read through."""
    linears = [module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D))]
    return sum(weight.nbytes for weight in {module.weight.data_ptr(): module.weight for module in linears}.values())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
