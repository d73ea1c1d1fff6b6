"""Target layers of an adapter: the defaults for a model, and validation of names.

No import of PEFT here: the butterfly method imports this module while PEFT may be half initialised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from torch import nn
from transformers import PreTrainedModel

from slm_adapters.adaptation.layer_faults import candidate_layers, layer_faults
from slm_adapters.errors import AdapterError

ALL_LINEAR = "all-linear"  # PEFT's name for every linear layer except the output embeddings


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers by full name: ``nn.Linear`` (4-bit and 8-bit too) and GPT-2's ``Conv1D``.

    The output embeddings are excluded: adapting them would untie them from the input embeddings, or add an adapter as
    large as the vocabulary.
    """
    head = model.get_output_embeddings()
    return {name: module for name, module in candidate_layers(model).items() if module is not head}


def default_layers(model: PreTrainedModel) -> list[str]:
    """Return the full names of the linear layers in the model's blocks that can take an adapter.

    Raises AdapterError if there is none.
    """
    layers = linear_layers(model)
    faults = layer_faults(model, layers)
    if not (usable := [name for name in layers if name not in faults]):
        hint = "; ".join(f"{name} {fault}" for name, fault in list(faults.items())[:1]) or "it has no linear layers"
        raise AdapterError(f"this {type(model).__name__} has no layer for an adapter: {hint}; train it with baseline")
    return usable


def default_targets(model: PreTrainedModel) -> list[str]:
    """Return names for every linear layer in the model's blocks that can take an adapter: attention and MLP.

    They are the last parts of the names, sorted, and full names where a last part also names something else.
    """
    return shortest_names(model, default_layers(model))


def check_targets(model: PreTrainedModel, names: Sequence[str], *, embeddings: bool = False) -> list[str]:
    """Return ``names``, each of which must be the name of a linear layer, or the end of one, that can take an adapter.

    A name that also matches something else is replaced by the full names of the layers. ``all-linear`` stands for the
    default targets. With ``embeddings`` the name of an embedding is accepted too.

    Raises AdapterError with the names that exist, or the reason. PEFT 0.21 accepts a list as long as one name in it
    matches.
    """
    layers = candidate_layers(model, embeddings=embeddings)
    faults = layer_faults(model, layers)
    targets: list[str] = []
    for name in names:
        if name == ALL_LINEAR:
            targets += default_targets(model)
            continue
        matching = [layer for layer in layers if is_named(layer, [name])]
        if not matching:
            raise AdapterError(_unknown_target(name, default_targets(model)))
        usable = [layer for layer in matching if layer not in faults]
        if not usable:
            raise AdapterError(f"target module {name!r} cannot take an adapter: {matching[0]} {faults[matching[0]]}")
        targets += shortest_names(model, usable, [name])
    return list(dict.fromkeys(targets))


def shortest_names(model: nn.Module, layers: Iterable[str], preferred: Sequence[str] = ()) -> list[str]:
    """Return names that match exactly the modules called ``layers`` under PEFT's rule, as few as possible.

    Each of ``preferred`` (by default the last parts of ``layers``) is used if it matches nothing else, the full names
    of its layers otherwise.
    """
    wanted = set(layers)
    modules = [name for name, _ in model.named_modules()]
    names: list[str] = []
    for name in preferred or sorted({layer.rpartition(".")[2] for layer in wanted}):
        matching = {module for module in modules if is_named(module, [name])}
        names += [name] if matching <= wanted else sorted(matching & wanted)
    return names


def is_named(layer: str, names: Sequence[str]) -> bool:
    """Whether one of ``names`` is the full name ``layer`` or its last parts: PEFT's rule for a list of names."""
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _unknown_target(name: str, existing: list[str]) -> str:
    close = get_close_matches(name, existing, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"target module {name!r} matches no linear layer of this model; {hint}it has {', '.join(existing)}"
