"""Linear layers in place of GPT-2's ``Conv1D``, which PEFT 0.21's OFT does not support, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

Model = TypeVar("Model", bound=nn.Module)


class LinearOfConv1D(nn.Linear):
    """A linear layer with the weight of a ``Conv1D``: a transposed view, which takes no memory of its own."""

    def __init__(self, layer: Conv1D) -> None:
        in_features, out_features = layer.weight.shape
        super().__init__(in_features, out_features, device="meta")
        self.weight = nn.Parameter(layer.weight.detach().T, requires_grad=layer.weight.requires_grad)
        self.bias = layer.bias


def use_linear_layers(model: nn.Module) -> None:
    """Replace each ``Conv1D`` in ``model``, in place. The model computes the same."""
    _replace(model, Conv1D, LinearOfConv1D)


def restore_conv1d(model: Model) -> Model:
    """Replace what ``use_linear_layers`` made, in place, so that the weights are saved as the architecture has them."""
    _replace(model, LinearOfConv1D, _as_conv1d)
    return model


def _replace(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module]) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is kind:
                setattr(parent, name, make(child).train(child.training))


def _as_conv1d(layer: LinearOfConv1D) -> Conv1D:
    with torch.device("meta"):
        conv = Conv1D(layer.out_features, layer.in_features)
    conv.weight = nn.Parameter(layer.weight.detach().T.contiguous(), requires_grad=layer.weight.requires_grad)
    conv.bias = layer.bias
    return conv
