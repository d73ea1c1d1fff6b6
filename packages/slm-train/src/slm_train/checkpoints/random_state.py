"""The state of all random number generators, for a checkpoint."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """Return the states of Python, numpy, torch and each GPU, as plain values and tensors."""
    kind, key, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        # As a tensor: torch.load(weights_only=True) reads no numpy arrays. torch has no complete uint32, so int64.
        "numpy": (kind, torch.from_numpy(np.asarray(key, np.uint32).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` returned."""
    random.setstate(state["python"])
    kind, key, *rest = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(device_state, device)
