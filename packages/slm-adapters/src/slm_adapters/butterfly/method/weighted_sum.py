"""Weighted sums of the angles (and magnitudes minus one) of adapters, as a new adapter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from slm_adapters.butterfly.method.layer import ButterflyLayer
from slm_adapters.errors import AdapterError

SAME_SETTINGS = ("block_size", "stages", "side", "scale")
_TRAINED_MODULES = ("modules_to_save", "trainable_token_indices")


def check_sum(
    configs: Mapping[str, Any], adapters: Sequence[str], weights: Sequence[float], layers: Iterable[ButterflyLayer]
) -> None:
    """Raise AdapterError unless ``adapters`` can be added: existing names, finite weights, and equal shapes.

    ``configs``: the configuration of each adapter of the model.
    """
    if len(adapters) != len(weights) or not adapters:
        raise AdapterError(f"give one weight for each adapter, not {len(weights)} for {len(adapters)}")
    for name, weight in zip(adapters, weights, strict=True):
        if not math.isfinite(weight):
            raise AdapterError(f"the weight of adapter {name!r} is {weight}; it must be a finite number")
        _check_settings(configs, adapters[0], name)
    for layer in layers:
        if len({name in layer.rotations for name in adapters}) > 1:
            raise AdapterError(
                f"not all of {', '.join(adapters)} adapt {layer.layer_name}; their angles cannot be added"
            )


def check_combination(combination_type: str, options: Mapping[str, Any]) -> None:
    """Raise AdapterError for a way to combine adapters that is not a sum of angles, and for options of such ways."""
    if combination_type != "linear":
        raise AdapterError(
            f"butterfly adapters are combined by their angles (combination_type='linear'), not by {combination_type}"
        )
    for name, value in options.items():
        if value is not None:
            raise AdapterError(f"{name}={value!r} has no effect on a sum of angles; leave it out")


@torch.no_grad()
def fill_with_sum(layer: ButterflyLayer, target: str, adapters: Sequence[str], weights: Sequence[float]) -> None:
    """Set the parameters of ``target`` to the sum of those of ``adapters``, each times its weight and its strength.

    The strength of ``target`` must be 1.
    """
    for part in layer.adapter_layer_names:
        parameters = getattr(layer, part)
        if target in parameters:
            terms = zip(adapters, weights, strict=True)
            parameters[target].copy_(sum(weight * layer.strength[name] * parameters[name] for name, weight in terms))


def _check_settings(configs: Mapping[str, Any], first: str, name: str) -> None:
    for setting in SAME_SETTINGS:
        if getattr(configs[name], setting) != getattr(configs[first], setting):
            raise AdapterError(f"adapters {first!r} and {name!r} differ in {setting}; their angles cannot be added")
    for setting in _TRAINED_MODULES:
        if trained := getattr(configs[name], setting):
            modules = ", ".join(sorted(trained)) if isinstance(trained, Iterable) else str(trained)
            raise AdapterError(
                f"adapter {name!r} has trained {modules} too ({setting}), which a sum of angles would leave out; merge "
                "the adapters one after the other instead"
            )
