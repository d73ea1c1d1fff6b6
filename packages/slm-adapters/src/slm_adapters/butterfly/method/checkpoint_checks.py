"""Checks of a butterfly checkpoint against the model that it is loaded into."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slm_adapters.butterfly.method.layer import ButterflyLayer
from slm_adapters.errors import AdapterError


def check_checkpoint(model: nn.Module, adapter_name: str, saved: dict[str, Tensor]) -> None:
    """Raise AdapterError unless ``saved`` has values for every parameter of the adapter, finite and of its shape.

    PEFT 0.21 loads a checkpoint with missing layers or without finite values silently.
    """
    expected = _adapter_parameters(model, adapter_name)
    for name, parameter in expected.items():
        _check_values(name, parameter, saved)
    for name in saved:
        if ".butterfly_" in name and name not in expected:
            raise AdapterError(
                f"the checkpoint has {name.removeprefix('base_model.model.')}, which this model does not have; "
                "it was made for other layers"
            )


def _check_values(name: str, parameter: Tensor, saved: dict[str, Tensor]) -> None:
    label = name.removeprefix("base_model.model.").rpartition(".")[0]  # without the adapter's name
    if name not in saved:
        raise AdapterError(f"the checkpoint has no {label}; it was made for other layers or another side")
    values = saved[name]
    if values.shape != parameter.shape:
        raise AdapterError(
            f"{label}: the checkpoint has the shape {list(values.shape)}, the model {list(parameter.shape)}; it "
            "was made for another width, block size or number of stages"
        )
    if not torch.isfinite(values).all():
        raise AdapterError(f"{label}: the checkpoint has values that are not finite; train it again or copy it again")


def _adapter_parameters(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """Return the angles and magnitudes of an adapter by their names in the model."""
    return {
        f"{name}.{part}.{adapter_name}": getattr(layer, part)[adapter_name]
        for name, layer in model.named_modules()
        if isinstance(layer, ButterflyLayer)
        for part in layer.adapter_layer_names
        if adapter_name in getattr(layer, part)
    }
