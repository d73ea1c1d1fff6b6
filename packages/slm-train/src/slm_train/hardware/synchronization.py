"""Waiting for a GPU: its work is queued, so a time that is read without waiting is that of queueing."""

from __future__ import annotations

import torch


def synchronize(device: torch.device) -> None:
    """Wait until ``device`` has computed everything; a CPU has."""
    if device.type in ("cuda", "xpu"):
        torch.get_device_module(device).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
