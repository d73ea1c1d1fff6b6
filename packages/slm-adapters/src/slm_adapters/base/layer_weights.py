"""Reading and writing the weights of all kinds of linear layers as ``[out, in]``.

``nn.Linear``, GPT-2's ``Conv1D`` (stored ``[in, out]``), and bitsandbytes' 4-bit and 8-bit layers. No import of PEFT
here: the butterfly method imports this module while PEFT may be half initialised.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from slm_adapters.base.quantization import dequantized, is_quantized, requantize


def features(layer: nn.Module) -> tuple[int, int] | None:
    """Return the input and output features of ``layer``, or None if it is not linear."""
    if isinstance(layer, Conv1D):
        in_features, out_features = layer.weight.shape
        return int(in_features), int(out_features)
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return None


def is_sharded(tensor: Tensor) -> bool:
    """Whether ``tensor`` is a part of a weight that is distributed over processes (FSDP2)."""
    return type(tensor).__name__ == "DTensor"  # comparing names needs no import of torch.distributed.tensor


def read_weight(layer: nn.Module) -> Tensor:
    """Return the weight ``[out, in]``: a view, or for a quantized layer a dequantized copy."""
    linear: Any = layer
    if is_quantized(layer):
        return dequantized(layer)
    weight: Tensor = linear.weight.data
    return weight.T if isinstance(layer, Conv1D) else weight


def write_weight(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Set the weight ``[out, in]`` and bias of ``layer``, in its dtype. Its previous tensors are not modified."""
    linear: Any = layer
    if is_quantized(layer):
        requantize(layer, weight)
    else:
        stored = weight.T if isinstance(layer, Conv1D) else weight
        linear.weight.data = stored.to(linear.weight.dtype).contiguous()
    if bias is not None:
        linear.bias.data = bias.to(linear.bias.dtype)


class SavedWeight:
    """The weight and bias of a layer as they were before a merge.

    Restoring puts the same tensors back, bit for bit, unless the layer was moved to another device or dtype since.
    """

    def __init__(self, layer: nn.Module):
        linear: Any = layer
        self.quantized = is_quantized(layer)
        self.weight = linear.weight if self.quantized else linear.weight.data
        self.state = linear.__dict__.get("state")  # scales of an 8-bit layer
        self.bias = None if linear.bias is None else linear.bias.data

    def restore(self, layer: nn.Module) -> None:
        """Put the saved tensors back into ``layer``."""
        linear: Any = layer
        if self.quantized:
            linear.weight = self.weight
            if self.state is not None:
                linear.state = self.state
        else:
            linear.weight.data = self.weight.to(linear.weight.device, linear.weight.dtype)
        if self.bias is not None:
            linear.bias.data = self.bias.to(linear.bias.device, linear.bias.dtype)
