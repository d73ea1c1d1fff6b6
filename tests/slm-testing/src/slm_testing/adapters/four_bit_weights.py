"""Models with 4-bit weights, with these weights written out."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn


def dequantised(model: nn.Module) -> nn.Module:
    """Replace each 4-bit linear layer of ``model``, in place, by a float32 one with the weights that it stands for."""
    bitsandbytes: Any = import_module("bitsandbytes")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, bitsandbytes.nn.Linear4bit):
                setattr(module, name, _plain(bitsandbytes, child))
    return model


@torch.no_grad()
def _plain(bitsandbytes: Any, layer: Any) -> nn.Linear:
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device=weight.device)
    plain.weight.copy_(weight)
    if layer.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain.requires_grad_(False)
