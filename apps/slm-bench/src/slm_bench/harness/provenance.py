"""Provenance of a result: the machine, the time and the versions that it was measured with."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil
import torch

from slm_bench import __version__
from slm_bench.harness.result_file import Findings, ResultFile, Results

OUR_PACKAGES = ("slm-bench", "slm-data", "slm-adapters", "slm-train", "slm-kv", "slm-serve")
PEERS = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "numba", "fastapi", "uvicorn", "trl", "vllm")


def new_result(
    benchmark: str, settings: Mapping[str, Any], findings: Findings, device: torch.device | str = "cpu"
) -> ResultFile:
    """Combine the findings of ``benchmark``, measured just now on this machine, with their provenance."""
    return ResultFile(
        slm_bench=__version__,
        benchmark=benchmark,
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(device),
        versions=versions(),
        settings=dict(settings),
        results=Results(comparisons=findings.comparisons, left_out=findings.left_out, **findings.samples),
        guarantees=tuple(findings.guarantees),
    )


def machine(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return what figures depend on: processor, cores, memory in bytes, device, operating system and load."""
    device = torch.device(device)
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that matter here."""
    installed = {package.name: package.version for package in distributions()}
    packages = {name: installed[name] for name in (*OUR_PACKAGES, *PEERS) if name in installed}
    return {"python": platform.python_version()} | packages


def cpu_name() -> str:
    """Return the processor's model name if the system provides it, otherwise its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
