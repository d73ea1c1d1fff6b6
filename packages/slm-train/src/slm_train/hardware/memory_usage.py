"""What a run weighs: parameters, bytes of weights, gradients and optimizer, and memory at its peak."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters. A 4-bit weight counts each of its values, not its bytes."""

    trainable: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.trainable / max(self.total, 1)


def count_parameters(model: nn.Module) -> Parameters:
    """Each parameter once, also when two layers share it."""
    sizes = {id(p): (_values(p), p.requires_grad) for p in model.parameters()}
    return Parameters(sum(n for n, trains in sizes.values() if trains), sum(n for n, _ in sizes.values()))


def _values(parameter: nn.Parameter) -> int:
    quantised = getattr(parameter, "quant_state", None)  # bitsandbytes packs two 4-bit values a byte
    return int(torch.Size(quantised.shape).numel()) if quantised is not None else parameter.numel()


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, shared ones once."""
    return sum({id(p): p.nbytes for p in model.parameters()}.values())


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that exist right now."""
    return sum({id(p): p.grad.nbytes for p in model.parameters() if p.grad is not None}.values())


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Bytes of the optimizer's state: twice the trained weights for Adam."""
    return sum(v.nbytes for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v))


class Memory:
    """Memory of this process in bytes: the CUDA allocator's on a GPU, resident memory on a CPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.kind = "GPU memory" if device.type == "cuda" else "resident memory"

    def now(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def peak(self) -> int:
        """The highest since ``reset_peak``; where the system cannot reset it, since the start."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if Path("/proc/self/status").exists():
            return _status("VmHWM")
        return _peak_since_start()

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif os.access("/proc/self/clear_refs", os.W_OK):
            Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _peak_since_start() -> int:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
