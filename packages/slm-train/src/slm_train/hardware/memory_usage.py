"""Current and peak memory of this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5): sets the peak resident set size back to the current one


class MemoryUsage:
    """Memory in bytes: of the CUDA allocator on a GPU, resident memory of the process on a CPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.kind = "GPU memory" if device.type == "cuda" else "resident memory"

    def current(self) -> int:
        """Return the bytes in use."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return int(psutil.Process().memory_info().rss)

    def peak(self) -> int:
        """Return the peak since ``reset_peak``, or since the process started where the system cannot reset it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if _STATUS.exists():
            return _status_field("VmHWM")
        return _peak_since_start()

    def reset_peak(self) -> None:
        """Measure the peak from now on."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif os.access(_CLEAR_REFS, os.W_OK):
            _CLEAR_REFS.write_text(_RESET_PEAK)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can still allocate on ``device``.

    Of a GPU: what is free there, and what torch has reserved and does not use. Of a CPU: what the system has available.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)


def _status_field(name: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def _peak_since_start() -> int:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere
