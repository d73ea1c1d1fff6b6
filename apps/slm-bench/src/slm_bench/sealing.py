"""Where and when something was measured, and by which versions: put around what every benchmark found."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from slm_bench import __version__
from slm_bench.comparison import Comparison
from slm_bench.envelope import Envelope
from slm_bench.promises import Promise

OURS = ("slm-bench", "slm-data", "slm-adapters", "slm-train", "slm-kv", "slm-serve")
OTHERS = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "numba", "fastapi", "uvicorn", "trl", "vllm")


def seal(
    benchmark: str,
    settings: Mapping[str, Any],
    samples: Mapping[str, Any],
    comparisons: Sequence[Comparison] = (),
    promises: Sequence[Promise] = (),
    *,
    left_out: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
) -> Envelope:
    """What ``benchmark`` found just now, on this machine."""
    shown = {"comparisons": [asdict(one) for one in comparisons], "left_out": dict(left_out or {})}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    results = {**shown, **samples}
    return Envelope(__version__, benchmark, now, machine(device), versions(), settings, results, tuple(promises))


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What figures depend on: the processor, its cores, bytes of memory, the device that computed."""
    device = torch.device(device)
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Of Python and of what is installed here."""
    found = {"python": platform.python_version()}
    for name in (*OURS, *OTHERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a peer that is not there
            continue
    return found


def cpu() -> str:
    """Its name, where the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
