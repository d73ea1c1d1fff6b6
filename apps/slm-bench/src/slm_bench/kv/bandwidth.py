"""Memory bandwidth of this machine, and the bytes of weights and cache that a model reads for one token."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

MEBIBYTES = 512  # larger than any CPU cache
REPEATS = 7


def memory_bandwidth(device: torch.device) -> float:
    """Return the bytes per second of the fastest of several reads of 512 MiB."""
    values = torch.ones(MEBIBYTES * 1024 * 1024 // 4, device=device)
    best = float("inf")
    for _ in range(REPEATS):
        _synchronize(device)
        start = time.perf_counter()
        values.sum()
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return values.nbytes / best


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all distinct linear weights. Embeddings are looked up, so they are not read in full."""
    linears = [module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D))]
    return sum(weight.nbytes for weight in {module.weight.data_ptr(): module.weight for module in linears}.values())


def tensor_bytes(cache: Any) -> int:
    """Return the bytes of all distinct tensors of a cache, be they keys, values or the states of a recurrent layer.

    Args:
        cache: A cache of transformers, or tensors in nested lists (RWKV).
    """
    layers = [vars(layer) for layer in cache.layers] if hasattr(cache, "layers") else cache
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in _tensors(layers)}.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
