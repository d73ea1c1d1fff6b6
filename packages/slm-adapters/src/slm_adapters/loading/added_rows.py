"""Embeddings of an adapter that was trained with more rows than its base has."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.base.vocabulary import embedding_rows, resize_embeddings


def recorded_rows(adapter: ModelFolder, model: PreTrainedModel) -> int:
    """Return the number of rows of the embeddings with which ``adapter`` was trained, as far as it shows; else 0.

    It shows in the indices of rows that were trained alone, and in the shapes of embeddings that were trained as a
    whole, or saved by PEFT.
    """
    indices: Any = adapter.config.get("trainable_token_indices") or {}
    lists = list(indices.values()) if isinstance(indices, dict) else [indices]
    rows = [max(numbers) + 1 for numbers in lists if numbers]
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    for name in (name for name, module in model.named_modules() if any(module is layer for layer in layers)):
        for part, axis in (("weight", 0), ("base_layer.weight", 0), ("lora_embedding_A", 1)):
            if header := adapter.tensors.get(f"base_model.model.{name}.{part}"):
                rows.append(header.shape[axis])
    return max(rows, default=0)


def add_recorded_rows(model: PreTrainedModel, adapter: ModelFolder) -> int:
    """Resize the embeddings of a base to what ``adapter`` was trained with, and return the number of rows added."""
    return resize_embeddings(model, recorded_rows(adapter, model))


@torch.no_grad()
def write_added_rows(adapted: Any, added: int) -> None:
    """Write the trained values of the ``added`` last rows into the base's embeddings, and remove PEFT's wrappers.

    The base itself has no such rows, so nothing of it is lost. PEFT's wrapper copies the whole embeddings in each
    forward pass, and twice if they are tied.
    """
    if not added:
        return
    from peft.utils.other import TrainableTokensWrapper

    model = adapted.get_base_model()
    first = embedding_rows(model) - added
    wrappers = {n: m for n, m in model.named_modules() if isinstance(m, TrainableTokensWrapper)}
    for name, wrapper in wrappers.items():
        layer: Any = wrapper.token_adapter
        if any(min(indices) < first for indices in layer.token_indices.values()):
            return  # rows of the base's own tokens: they differ from adapter to adapter
        for adapter_name, indices in layer.token_indices.items():
            weight = layer.base_layer.weight
            weight[indices] = layer.trainable_tokens_delta[adapter_name].to(weight)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer.base_layer)
