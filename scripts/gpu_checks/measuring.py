"""Times, bandwidths and memory of a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 7


def synchronized_time(device: torch.device) -> float:
    """Return the time in seconds once the device has finished what was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fastest(function: Callable[[], object], device: torch.device, rounds: int = ROUNDS) -> float:
    """Return the seconds of the fastest of several calls, after one that warms up."""
    function()
    seconds = []
    for _ in range(rounds):
        start = synchronized_time(device)
        function()
        seconds.append(synchronized_time(device) - start)
    return min(seconds)


def copy_bandwidth(device: torch.device, nbytes: int) -> float:
    """Return the bytes per second that a copy on the device moves, counting those read and those written."""
    source = torch.ones(nbytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source), device)


def product_rate(device: torch.device, size: int, dtype: torch.dtype) -> float:
    """Return the operations per second of a product of square matrices with random contents."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * float(size) ** 3 / fastest(lambda: left @ right, device)


def read_weights(model: nn.Module) -> int:
    """Return the bytes of weights that are read for a token: all but embeddings that are only looked up."""
    any_model: Any = model
    looked_up = any_model.get_input_embeddings().weight
    tied = any_model.get_output_embeddings().weight is looked_up
    weights = {weight.data_ptr(): weight for weight in model.parameters() if tied or weight is not looked_up}
    return sum(weight.nbytes for weight in weights.values())


def cached_bytes(model: nn.Module) -> int:
    """Return the bytes of keys and values of one token in all layers."""
    config: Any = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dtype: torch.dtype = next(model.parameters()).dtype
    return int(2 * config.num_hidden_layers * heads * dim * dtype.itemsize)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute value of ``expected``, in float64."""
    reference = expected.detach().cpu().double()
    return float((actual.detach().cpu().double() - reference).abs().max() / reference.abs().max())


class PeakMemory:
    """The peak of memory that torch has allocated on a GPU, within a ``with`` block. None on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.megabytes: float | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.megabytes = torch.cuda.max_memory_allocated(self.device) / 1e6
