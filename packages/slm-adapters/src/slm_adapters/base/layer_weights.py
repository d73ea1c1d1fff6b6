"""Reading and writing the weight of whatever layer an adapter lies on, as ``[out, in]``.

``nn.Linear``, GPT-2's ``Conv1D`` (stored ``[in, out]``), and the 4-bit and 8-bit layers of bitsandbytes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slm_adapters.base.quantization import dequantized, is_quantized, requantize


def features(layer: nn.Module) -> tuple[int, int] | None:
    """Features in and out, or None for a layer that is not linear."""
    if isinstance(layer, Conv1D):
        features_in, features_out = layer.weight.shape
        return int(features_in), int(features_out)
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return None


def read_weight(layer: nn.Module) -> Tensor:
    """``[out, in]``; a view where the layer stores floating-point numbers, else dequantised."""
    held: Any = layer
    if is_quantized(layer):
        return dequantized(layer)
    weight: Tensor = held.weight.data
    return weight.T if isinstance(layer, Conv1D) else weight


class Pristine:
    """The weight and bias of a layer as they were: putting them back is bit for bit, nothing is computed, unless the
    layer was moved to another device or dtype since."""

    def __init__(self, layer: nn.Module):
        held: Any = layer
        self.quantized = is_quantized(layer)
        self.weight = held.weight if self.quantized else held.weight.data
        self.state = held.__dict__.get("state")
        self.bias = None if held.bias is None else held.bias.data

    def restore(self, layer: nn.Module) -> None:
        held: Any = layer
        if self.quantized:
            held.weight = self.weight
            if self.state is not None:
                held.state = self.state
        else:
            held.weight.data = self.weight.to(held.weight.device, held.weight.dtype)
        if self.bias is not None:
            held.bias.data = self.bias.to(held.bias.device, held.bias.dtype)


def write_weight(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Put ``weight`` ``[out, in]`` and ``bias`` into ``layer``, in its own dtype, beside what it held before."""
    held: Any = layer
    if is_quantized(layer):
        requantize(layer, weight)
    else:
        stored = weight.T if isinstance(layer, Conv1D) else weight
        held.weight.data = stored.to(held.weight.dtype).contiguous()
    if bias is not None:
        held.bias.data = bias.to(held.bias.dtype)


def exact(tensor: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return tensor.float() if tensor.device.type == "mps" else tensor.to(torch.float64)
