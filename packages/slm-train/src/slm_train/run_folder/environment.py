"""Versions and machine of a run, for run.json."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

import torch

_PACKAGES = ("slm-train", "slm-data", "slm-adapters", "torch", "transformers", "peft", "accelerate")


def environment(device: torch.device, device_name: str) -> dict[str, Any]:
    """Return versions, device and machine, which affect the figures of a run."""
    return {
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "device": {"type": device.type, "name": device_name, "threads": torch.get_num_threads()},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
    }
