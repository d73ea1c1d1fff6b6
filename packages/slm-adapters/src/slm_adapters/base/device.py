"""The device that a model is loaded on."""

from __future__ import annotations

import torch

from slm_adapters.errors import AdapterError


def usable_device(device: torch.device | str | None) -> torch.device:
    """Return ``device``, or if it is None, cuda if there is a GPU and else cpu.

    Raises AdapterError for a name that torch does not know, and for a device on which no tensor can be allocated.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (AssertionError, NotImplementedError, RuntimeError) as error:  # by the backend and how torch was built
        raise AdapterError(
            f"device {str(device)!r} cannot be used on this machine; use cpu, or cuda with a GPU"
        ) from error
