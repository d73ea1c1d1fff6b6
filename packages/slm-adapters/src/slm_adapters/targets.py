"""Target layers of an adapter: the defaults for a model, and validation of names.

No import of PEFT here: the butterfly method imports this module while PEFT may be half initialised.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.errors import AdapterError


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers by full name: ``nn.Linear`` (4-bit and 8-bit too) and GPT-2's ``Conv1D``.

    The output embeddings are excluded: adapting them would untie them from the input embeddings, or add an adapter as
    large as the vocabulary.
    """
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }


def default_targets(model: PreTrainedModel) -> list[str]:
    """Return the last name part of every linear layer in the model's blocks, sorted: attention and MLP."""
    return sorted({name.rpartition(".")[2] for name in linear_layers(model)})


def check_targets(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Return ``names`` if each is the name of a linear layer, or the end of one.

    Raises AdapterError with the names that exist. PEFT 0.21 accepts a list as long as one name in it matches.
    """
    layers = linear_layers(model)
    for name in names:
        if not any(is_named(layer, [name]) for layer in layers):
            raise AdapterError(_unknown_target(name, default_targets(model)))
    return list(names)


def is_named(layer: str, names: Sequence[str]) -> bool:
    """Whether one of ``names`` is the full name ``layer`` or its last parts: PEFT's rule for a list of names."""
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _unknown_target(name: str, existing: list[str]) -> str:
    close = get_close_matches(name, existing, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"target module {name!r} matches no linear layer of this model; {hint}it has {', '.join(existing)}"
