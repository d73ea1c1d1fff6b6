"""Random weights so large that a wrong computation shows in the logits.

transformers initialises weights so small that a model hardly looks at its context: a wrong mask or position changes
its logits by less than rounding does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@torch.no_grad()
def scale_up(model: PreTrainedModel) -> None:
    """Replace the weights of ``model``, in place, with values from torch's random generator."""
    head: Any = model.get_output_embeddings()
    embeddings: Any = model.get_input_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    modules: Iterable[Any] = model.modules()
    for module in modules:
        if module is embeddings:
            _normal(embeddings.weight, 0.15)
        elif module is head:
            if not tied:
                _normal(head.weight, 3 / math.sqrt(head.weight.shape[1]))
        else:
            _scale_up_module(module)


def _scale_up_module(module: Any) -> None:
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        _normal(module.weight, 1.2 / math.sqrt(module.in_features))
        _normal(module.bias, 0.1)
    elif isinstance(module, Conv1D):
        _normal(module.weight, 1.2 / math.sqrt(module.nx))
        _normal(module.bias, 0.1)
    elif "Embedding" in kind and isinstance(getattr(module, "weight", None), nn.Parameter):
        _normal(module.weight, 0.1)
    elif "Norm" in kind and isinstance(getattr(module, "weight", None), nn.Parameter):
        module.weight.add_(0.1 * torch.randn_like(module.weight))
    else:
        for name, parameter in module.named_parameters(recurse=False):
            _scale_up_parameter(name, parameter)


def _scale_up_parameter(name: str, parameter: Tensor) -> None:
    """Replace a parameter of a module that is of none of the usual kinds: routers, experts, sinks.

    The parameters of a recurrence (``A_log``, ``dt_bias``) keep their values, which decide whether it is stable.
    """
    if name == "sinks":
        _normal(parameter, 1.0)
    elif name == "A":  # of Doge: with its zeros, the choice of keys would be one among equals
        _normal(parameter, 0.5)
    elif name.startswith("time_mix"):
        parameter.uniform_()
    elif parameter.dim() == 3 or (name == "weight" and parameter.dim() == 2):
        _normal(parameter, 1 / math.sqrt(parameter.shape[-1]))


def _normal(weight: Tensor | None, std: float) -> None:
    if weight is not None:
        weight.normal_(std=std)
