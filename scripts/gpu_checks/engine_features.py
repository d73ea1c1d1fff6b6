"""What the engine has, where that differs between versions: CUDA graphs, and the trial of attention kernels."""

from __future__ import annotations

import inspect
from typing import Any

import torch

import slm_kv


def has_cuda_graphs() -> bool:
    """Return whether the engine has the option ``cuda_graphs``."""
    return "cuda_graphs" in inspect.signature(slm_kv.Engine.__init__).parameters


def graph_settings(device: torch.device) -> list[str]:
    """Return the settings of ``cuda_graphs`` to compare: ``off``, and ``auto`` on a device that has them."""
    return ["off", "auto"] if has_cuda_graphs() and device.type == "cuda" else ["off"]


def graph_options(setting: str) -> dict[str, Any]:
    """Return the option of the engine for a setting; none if it has no such option."""
    return {"cuda_graphs": setting} if has_cuda_graphs() else {}


def attention_name(device: torch.device, dtype: torch.dtype) -> str:
    """Return what computes attention over pages, and why it is not something faster."""
    try_attention: Any = getattr(slm_kv, "try_attention", None)
    if try_attention is None:  # the kernels are not tried
        return slm_kv.select_attention(device, dtype).__module__
    tried = try_attention(device, dtype)
    return f"{tried.name}, because {tried.problem}" if tried.problem else str(tried.name)
