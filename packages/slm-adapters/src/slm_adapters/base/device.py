"""The device that a model is loaded on."""

from __future__ import annotations

from functools import cache

import torch

from slm_adapters.errors import AdapterError


def has_float64(device: torch.device) -> bool:
    """Return whether ``device`` computes in float64: MPS and some XPUs do not."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type in ("cpu", "cuda", "meta") or _creates_float64(device)


@cache
def _creates_float64(device: torch.device) -> bool:
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except TypeError:  # of MPS
        return False
    return True


def default_device() -> torch.device:
    """Return the accelerator if there is one (CUDA or ROCm, Apple's MPS, Intel's XPU), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("xpu" if torch.xpu.is_available() else "cpu")


def usable_device(device: torch.device | str | None) -> torch.device:
    """Return ``device``, or the default one if it is None.

    Raises AdapterError for a name that torch does not know, and for a device on which no tensor can be allocated.
    """
    if device is None:
        return default_device()
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # by the backend and how torch was built
        raise AdapterError(
            f"device {str(device)!r} cannot be used on this machine; use cpu, or cuda, mps or xpu with such a GPU"
        ) from error
