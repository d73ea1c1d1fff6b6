"""The device and its rates: what all other figures are compared with."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.metadata import distributions

import torch

from gpu_checks.measuring import copy_bandwidth, product_rate, relative_error
from gpu_checks.recorder import Recorder

PACKAGES = (
    "numpy", "numba", "safetensors", "tokenizers", "huggingface-hub", "datasets", "bitsandbytes", "vllm", "pytest",
)  # fmt: skip
PRODUCT_SIZE = 8192


def run(recorder: Recorder) -> None:
    """Record the machine, check a product, and measure bandwidth and matrix products."""
    recorder.table("Machine", ["", "value"], list(_machine(recorder.device).items()))
    torch.manual_seed(0)
    left, right = torch.randn(257, 1031), torch.randn(1031, 129)
    product = left.to(recorder.device) @ right.to(recorder.device)
    error = relative_error(product, left.double() @ right.double())
    recorder.claim("product", error <= 1e-5, f"{error:.1g}")
    recorder.table("Rates", ["", "measured"], list(_rates(recorder).items()), "Copies count bytes read and written.")


def _machine(device: torch.device) -> dict[str, object]:
    facts: dict[str, object] = {"cores": os.cpu_count(), "nvcc": shutil.which("nvcc") or "none"}
    facts["C compiler"] = shutil.which("cc") or shutil.which("gcc") or "none"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        facts |= {
            "compute capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory, MB": total / 1e6,
            "free memory, MB": free / 1e6,
            "driver": _driver(),
            "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        }
    installed = {each.name.lower().replace("_", "-"): each.version for each in distributions()}
    return facts | {name: installed.get(name, "not installed") for name in PACKAGES}


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def _rates(recorder: Recorder) -> dict[str, object]:
    device, size = recorder.device, 256 if recorder.small else PRODUCT_SIZE
    rates: dict[str, object] = {"copy, GB/s": copy_bandwidth(device, recorder.sizes.copied_bytes) / 1e9}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        rates[f"product of {size} x {size}, {str(dtype)[6:]}, TFLOP/s"] = product_rate(device, size, dtype) / 1e12
    return rates
