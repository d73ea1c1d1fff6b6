"""Which layers of a model can be packed, and which embeddings can read a packed head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from slm_kv.peft_models import is_lora_matrix, reads_base_weight


def linear_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the name and module of each linear layer that can be packed; twice if it occurs twice in the model.

    Excluded are layers inside an adapter that may read its base layer's weight, LoRA's small matrices (they are
    exchanged, and would gain little), quantized layers, and layers on other devices or of other dtypes.
    """
    modules = list(model.named_modules(remove_duplicate=False))
    excluded = tuple(f"{name}." for name, module in modules if reads_base_weight(module))
    for name, module in modules:
        # type() rather than isinstance: a subclass may compute something else, as quantized layers do.
        if type(module) not in (nn.Linear, Conv1D) or not name or name.startswith(excluded) or is_lora_matrix(name):
            continue
        weight = weight_OI(module)
        if weight.dtype in (torch.float32, torch.bfloat16) and weight.device.type == "cpu":
            yield name, module


def group_by_weight(layers: dict[str, Any]) -> list[list[str]]:
    """Group the names of layers that share both weight and bias."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, layer in layers.items():
        groups.setdefault((id(layer.weight), id(layer.bias)), []).append(name)
    return list(groups.values())


def embeddings_by_weight(model: nn.Module) -> dict[int, dict[str, Any]]:
    """The model's embeddings by name, grouped by the id of their weight."""
    groups: dict[int, dict[str, Any]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Embedding):
            groups.setdefault(id(module.weight), {})[name] = module
    return groups


def tied_embeddings(
    model: nn.Module, embeddings: dict[int, dict[str, Any]], layers: dict[str, Any]
) -> dict[int, dict[str, Any]]:
    """Return the groups of ``embeddings`` that need nothing but rows of their weight.

    Groups that share the weight with a Conv1D are excluded: it stores the weight transposed, so that its outputs are
    not the embedding's rows.
    """
    conv1d_weights = {id(layer.weight) for layer in layers.values() if isinstance(layer, Conv1D)}
    return {
        weight: group
        for weight, group in embeddings.items()
        if weight not in conv1d_weights and needs_only_rows(model, group)
    }


def needs_only_rows(model: nn.Module, embeddings: dict[str, Any]) -> bool:
    """Return whether the embeddings only look rows up: no adapter around them, no subclass, no renormalisation."""
    parents = {name.rpartition(".")[0] for name in embeddings}
    if any(reads_base_weight(model.get_submodule(name)) for name in parents):
        return False
    return all(type(module) is nn.Embedding and module.max_norm is None for module in embeddings.values())


def is_tanh_gelu(module: nn.Module) -> bool:
    """Return whether ``module`` is GELU by tanh, under any of its names."""
    known = isinstance(module, NewGELUActivation | FastGELUActivation | GELUTanh)
    return known or (isinstance(module, nn.GELU) and module.approximate == "tanh")


def onednn_supports(layer: Any) -> bool:
    """Return whether oneDNN multiplies in the layer's dtype on this CPU: bfloat16 needs AVX-512."""
    return layer.weight.dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def weight_OI(layer: Any) -> Any:
    """The weight as [O, I]. Conv1D stores it transposed."""
    return layer.weight.t() if isinstance(layer, Conv1D) else layer.weight


def detached_bias(layer: Any) -> Any:
    """The bias without its gradient, or None."""
    return None if layer.bias is None else layer.bias.detach()
