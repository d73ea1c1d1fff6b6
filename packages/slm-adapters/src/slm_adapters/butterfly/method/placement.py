"""Where a butterfly adapter may be placed, and what it may be called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from slm_adapters.butterfly.method.layer_parameters import MAGNITUDE
from slm_adapters.butterfly.method.sides import INPUT, OUTPUT
from slm_adapters.errors import AdapterError

NO_ADAPTER = "__base__"  # PEFT's name for a row without an adapter
PREFIX = "butterfly_"


class MethodPrefix(str):
    """The start of the parameters' names, for PEFT, which warns about an adapter called like a part of it, such as "b".

    The warning dates from when PEFT found parameters by a part of their names; now it finds them on the layers.
    """

    __slots__ = ()

    def __contains__(self, adapter_name: object) -> bool:
        return False


def check_adapter_name(name: str, model: nn.Module) -> None:
    """Raise AdapterError for a name that cannot be that of a parameter, or has another meaning in PEFT or ``model``."""
    if not name or "." in name:
        raise AdapterError(f"{name!r} cannot be the name of an adapter; give one that is not empty and has no dot")
    if name == NO_ADAPTER or hasattr(nn.ParameterDict(), name):
        raise AdapterError(f"{name!r} cannot be the name of an adapter, it has another meaning; give another name")
    if name in {"model", "base_layer", INPUT, OUTPUT, MAGNITUDE, *_names_in(model)}:
        raise AdapterError(
            f"{name!r} cannot be the name of an adapter: a part of the model has this name, and PEFT would leave its "
            "values out when it saves other adapters; give another name"
        )


def _names_in(module: nn.Module) -> Iterator[str]:
    """Yield the names of all modules, parameters and buffers in ``module``, but not those of adapters."""
    if isinstance(module, AuxiliaryTrainingWrapper):
        return
    if isinstance(module, BaseTunerLayer):
        yield from module.adapter_layer_names
        module = module.get_base_layer()
    yield from (*module._parameters, *module._buffers)
    for name, child in module._modules.items():
        yield name
        if child is not None:
            yield from _names_in(child)


def is_never_called(parent: nn.Module) -> bool:
    """Whether ``parent`` computes with the weights of the linear layers in it, and never calls the layers."""
    return isinstance(parent, nn.MultiheadAttention)


def check_place(parent: nn.Module, layer_name: str) -> None:
    """Raise AdapterError if an adapter on the layer called ``layer_name``, a child of ``parent``, had no effect."""
    if is_never_called(parent):
        raise AdapterError(
            f"{layer_name} cannot take an adapter: nn.MultiheadAttention computes with its weight and never calls it; "
            "leave it out of target_modules, or name it in exclude_modules"
        )
    if PREFIX in layer_name:
        raise AdapterError(
            f"{layer_name} cannot take a butterfly adapter: PEFT would take it for a part of one, by {PREFIX!r} in its "
            "name; rename the module"
        )


class AdaptedWeight(torch.Tensor):
    """The weight of an adapted layer's base: its shape, dtype and device can be read; computing with it is refused.

    Some models compute with the weight of a layer and do not call the layer: fused kernels (Mamba), fused losses, the
    fast path of ``nn.TransformerEncoderLayer`` (which torch does not take with a tensor of a class like this one). They
    would ignore the adapter silently. Others only look at the dtype, such as T5.
    """

    layer_name = "a layer"

    @classmethod
    def of(cls, weight: Tensor, layer_name: str) -> Tensor:
        """Return ``weight`` with the same memory, guarded; quantized and distributed weights as they are."""
        return cls._guarded(weight, layer_name) if type(weight) in (nn.Parameter, Tensor) else weight

    @classmethod
    def _guarded(cls, weight: Tensor, layer_name: str) -> Tensor:
        guarded = weight.as_subclass(cls)
        guarded.layer_name = layer_name
        return guarded

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = [v.layer_name for v in (*args, *(kwargs or {}).values()) if isinstance(v, AdaptedWeight)]
        name = names[0] if names else cls.layer_name
        is_attribute = func.__name__ == "__get__"
        if is_attribute or func in _DESCRIPTIONS:
            with torch._C.DisableTorchFunctionSubclass():
                value = func(*args, **(kwargs or {}))
                return cls._guarded(value, name) if is_attribute and isinstance(value, Tensor) else value  # .T, .data
        raise AdapterError(
            f"the model computes with the weight of {name} and does not call the layer, so an adapter on it has no "
            "effect; name it in exclude_modules (get_base_layer().weight is the base's weight)"
        )


_DESCRIPTIONS = {
    Tensor.__repr__,
    Tensor.data_ptr,
    Tensor.detach,
    Tensor.dim,
    Tensor.element_size,
    Tensor.get_device,
    Tensor.is_contiguous,
    Tensor.is_floating_point,
    Tensor.numel,
    Tensor.size,
    Tensor.stride,
    Tensor.untyped_storage,
}
