"""Layers of a model that can take an adapter, and the reason why another one cannot.

Nothing is concluded from the name of an architecture: classes, shared weights and a forward pass are looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.adaptation.forward_probe import observe

_TIED = (
    "shares its weight with {other}: an adapter would change one of the two, and a merge both; --modules_to_save {own} "
    "trains the shared weight"
)
_UNUSED = "is not called by the model, which uses its weight directly or not at all"


def candidate_layers(model: PreTrainedModel, *, embeddings: bool = False) -> dict[str, nn.Module]:
    """Return the linear layers by full name, and with ``embeddings`` the embeddings too; the head is among them."""
    kinds: tuple[type[nn.Module], ...] = (nn.Linear, Conv1D, *([nn.Embedding] if embeddings else []))
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def layer_faults(model: PreTrainedModel, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return why an adapter would not work on a layer, by the layer's name; layers without a fault are left out."""
    # Both modes: Gemma 3n calls a layer in inference only, and reads its weight in training.
    observations = [observe(model, layers, training=training) for training in (True, False)]
    owners, places = weight_owners(model), module_places(model)
    faults: dict[str, str] = {}
    for name, layer in layers.items():
        weight: Any = getattr(layer, "weight", None)
        others = sorted(owners[id(weight)] - {name})
        if any(observation.is_special(name) for observation in observations):
            faults[name] = f"is a {type(layer).__name__}, which computes more than a product with its weight"
        elif others:
            faults[name] = _TIED.format(other=others[0], own=name.rpartition(".")[2])
        elif places[id(layer)] > 1:
            faults[name] = "is used in several places of the model, of which an adapter would change one"
        elif not all(observation.uses(name) for observation in observations):
            faults[name] = _UNUSED
    return faults


def weight_owners(model: nn.Module) -> dict[int, set[str]]:
    """Return the names of the modules that hold each parameter, by the parameter's id."""
    owners: dict[int, set[str]] = defaultdict(set)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)].add(name)
    return owners


def module_places(model: nn.Module) -> dict[int, int]:
    """Return how many attributes of other modules each module is, by the module's id."""
    places: dict[int, int] = defaultdict(int)
    for module in model.modules():
        for child in module._modules.values():
            places[id(child)] += 1
    return places
