"""Tensors as numpy arrays for compiled kernels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def as_array(tensor: Tensor) -> np.ndarray:
    """View a CPU tensor as a numpy array. numpy has no bfloat16: its bits come as uint16."""
    return (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
