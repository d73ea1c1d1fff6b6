"""Whether the engine has CUDA graphs, and the settings to compare."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from slm_kv import Engine


def has_cuda_graphs() -> bool:
    """Return whether the engine has the option ``cuda_graphs``."""
    return "cuda_graphs" in inspect.signature(Engine.__init__).parameters


def graph_settings(device: torch.device) -> list[str]:
    """Return the settings of ``cuda_graphs`` to compare: ``off``, and ``auto`` on a device that has them."""
    return ["off", "auto"] if has_cuda_graphs() and device.type == "cuda" else ["off"]


def graph_options(setting: str) -> dict[str, Any]:
    """Return the option of the engine for a setting; none if it has no such option."""
    return {"cuda_graphs": setting} if has_cuda_graphs() else {}
