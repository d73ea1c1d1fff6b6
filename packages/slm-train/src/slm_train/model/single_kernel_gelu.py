"""GPT-2's activation function as one kernel."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import FastGELUActivation, NewGELUActivation


def single_kernel_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """Replace ``gelu_new`` in ``model`` by torch's tanh GELU, in place; return the model.

    transformers computes ``gelu_new`` in eight elementwise passes and keeps eight tensors for the backward pass; torch
    has the same function as a single kernel. The configuration still names ``gelu_new``, so a saved model loads as any
    GPT-2.
    """
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(layer, name, nn.GELU(approximate="tanh"))
    return model
