"""How the engine is set up on a device: CUDA graphs, and what computes attention."""

from __future__ import annotations

from typing import Literal

import torch

import slm_kv

Graphs = Literal["auto", "off"]


def graph_settings(device: torch.device) -> list[Graphs]:
    """Return the settings of ``cuda_graphs`` to compare: ``off``, and ``auto`` on a device that has them."""
    return ["off", "auto"] if device.type == "cuda" else ["off"]


def attention_name(device: torch.device, dtype: torch.dtype) -> str:
    """Return what computes attention over pages, and why it is not something faster."""
    tried = slm_kv.try_attention(device, dtype)
    return f"{tried.name}, because {tried.problem}" if tried.problem else tried.name
