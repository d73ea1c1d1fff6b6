"""Which layers an adapter goes on: found in the model at hand, every given name checked."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.errors import AdapterError


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Linear layers by full name: ``nn.Linear`` (4-bit and 8-bit ones too) and GPT-2's ``Conv1D``.

    The output embeddings are left out: adapting them would untie or grow the vocabulary matrix.
    """
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def default_targets(model: PreTrainedModel) -> list[str]:
    """The last name of every linear layer in the model's blocks, sorted: attention and MLP alike."""
    return sorted({name.rpartition(".")[2] for name in linear_layers(model)})


def check_targets(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """``names`` if each is, or ends, the name of a linear layer.

    Raises AdapterError with the names that exist: PEFT takes a partly wrong list in silence.
    """
    layers = linear_layers(model)
    for name in names:
        if not any(is_named(layer, [name]) for layer in layers):
            raise AdapterError(_no_such_target(name, default_targets(model)))
    return list(names)


def is_named(layer: str, names: Sequence[str]) -> bool:
    """Whether one of ``names`` is, or ends, the full name ``layer``: PEFT's own rule for a list."""
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _no_such_target(name: str, existing: list[str]) -> str:
    close = get_close_matches(name, existing, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"target module {name!r} matches no linear layer of this model; {hint}it has {', '.join(existing)}"
