"""Layers that share their weight with another module, such as an output layer tied to the input embeddings.

An adapter would change the one and not the other, and a merge would write into both: a merged tied head would silently
change the embeddings too. So such layers are refused if they are named, and left out of the defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from slm_adapters.adaptation.layer_faults import module_places, weight_owners
from slm_adapters.base.layer_weights import features
from slm_adapters.targets import is_named

_REMEDY = (
    "leave it out of the target modules, or give it a weight of its own first (layer.weight = "
    "torch.nn.Parameter(layer.weight.clone()), and tie_word_embeddings=False in the config of a model whose head it is)"
)


def shared_layers(model: nn.Module) -> dict[nn.Module, str]:
    """Return the linear layers of ``model`` that an adapter must not be placed on, each with the reason."""
    owners, places = weight_owners(model), module_places(model)
    reasons: dict[nn.Module, str] = {}
    for name, layer in model.named_modules():
        if features(layer) is None:
            continue
        others = {other for values in layer._parameters.values() if values is not None for other in owners[id(values)]}
        if others := others - {name}:
            reasons[layer] = f"shares its weight with {min(others)}: a merge would change both; {_REMEDY}"
        elif places[id(layer)] > 1:
            reasons[layer] = (
                "is used in several places of the model, of which an adapter would change one; leave it out of the "
                "target modules"
            )
    return reasons


def saves_embeddings(model: nn.Module, modules_to_save: Iterable[str]) -> bool:
    """Whether one of ``modules_to_save`` names the input embeddings of ``model``."""
    any_model: Any = model
    embeddings = any_model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    names = [name for name, module in model.named_modules() if module is embeddings]
    return any(is_named(name, list(modules_to_save)) for name in names)
