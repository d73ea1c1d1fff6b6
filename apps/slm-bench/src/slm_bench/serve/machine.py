"""What was measured on what: everything that figures depend on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slm_bench.serve.setting import Setting

PACKAGES = ("slm-bench", "slm-serve", "slm-kv", "torch", "transformers", "fastapi", "uvicorn")


def machine(setting: Setting) -> dict[str, Any]:
    """The setting without its folders, the machine, and versions."""
    sizes = setting.sizes
    return {
        "model": setting.model,
        "adapter": None,
        "dtype": setting.dtype,
        "device": "cpu",
        "threads": 1,
        "rounds": setting.rounds,
        "requests": setting.requests,
        "concurrency": setting.concurrency,
        "prompt_tokens": sizes.prompt,
        "new_tokens": sizes.new,
        "pages": setting.pages,
        "capacity": setting.capacity,
        "server_core": setting.cores.server,
        "client_core": setting.cores.client,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    """Its name, where the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
