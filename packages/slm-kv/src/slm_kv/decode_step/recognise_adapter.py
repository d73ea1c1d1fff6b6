"""Recognising an adapter: which layers of a described model it changes, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from slm_kv.decode_step.adapter import Adapter, LowRank, Rotated, Rotation
from slm_kv.decode_step.blocks import ModelDescription
from slm_kv.decode_step.recognise_parts import require
from slm_kv.peft_models import Factors, RotatedLayer, is_of_adapter, low_rank_update, without_adapters

COMPARED_NUMBERS = 1 << 20  # of a tensor: the most that are compared by value


def recognise_adapter(
    description: ModelDescription, first: Any, model: Any, names: Sequence[str], name: str
) -> Adapter:
    """Describe an adapter of a model that shares the described model's weights.

    Args:
        description: Of ``first``.
        first: The described model, without a PeftModel wrapper.
        model: The adapter's model, without a PeftModel wrapper; it may be ``first``.
        names: All adapters of ``model``.
        name: The adapter.

    Raises:
        NotRecognised: the adapter changes something that is not understood.
    """
    places = {layer.place: layer for layer in description.linears}
    require(len(places) == len(description.linears), "layers share their weights")
    left, updates = _names(model, name), {}
    for path, place in first.named_modules():
        if place in places:
            module = model.get_submodule(path)
            update, used = _update(module, path, name, left)
            left -= used
            if update is not None:
                require(module.base_layer is without_adapters(module), f"{path} has adapters in each other")
                updates[place] = update
    require(not left, f"{min(left, default='').partition(f'.{name}')[0]} is not understood")
    if model is not first:
        _require_same_base(description, first, model, names)
    return Adapter(updates)


def _names(model: Any, name: str) -> set[str]:
    """The names of an adapter's tensors and modules."""
    modules = (path for path, _ in model.named_modules(remove_duplicate=False))
    return {key for key in chain((key for key, _ in _tensors(model)), modules) if is_of_adapter(key, name)}


def _update(module: Any, path: str, name: str, keys: Set[str]) -> tuple[LowRank | Rotated | None, Set[str]]:
    """What an adapter does to a layer, and those of its names, ``keys``, that say so."""
    low_rank = low_rank_update(module, name)
    if low_rank is not None:
        a, b, scaling = low_rank
        parts = [f"{path}.lora_{part}.{name}" for part in ("A", "B", "dropout")]
        return LowRank(a.detach(), b.detach(), scaling), {*parts, *(f"{part}.weight" for part in parts)}
    if isinstance(module, RotatedLayer) and not getattr(module, "merged_adapters", ()):
        inputs = _rotation(module.rotation_factors("input", name), None)
        outputs = _rotation(module.rotation_factors("output", name), module.magnitudes(name))
        return Rotated(inputs, outputs), {key for key in keys if key.startswith(f"{path}.")}
    return None, set()


def _rotation(factors: Factors, magnitudes: Tensor | None) -> Rotation | None:
    return Rotation(factors, magnitudes) if factors or magnitudes is not None else None


def _require_same_base(description: ModelDescription, first: Any, model: Any, names: Sequence[str]) -> None:
    """Refuse a model that has other weights than the described one, apart from its adapters."""
    hooked = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    require(not hooked, "hooks are registered at its modules")
    packed = {layer.place: layer.module for layer in description.linears}
    for path, place in first.named_modules():
        same = place not in packed or without_adapters(model.get_submodule(path)) is packed[place]
        require(same, f"its model has another weight in {path}")
    own, others = ({_plain_key(key): tensor for key, tensor in _tensors(each)} for each in (first, model))
    others = {key: tensor for key, tensor in others.items() if not any(is_of_adapter(key, name) for name in names)}
    for key, tensor in others.items():
        require(key in own and _same(tensor, own[key]), f"its model has another {key}")


def _same(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    return x.data_ptr() == y.data_ptr() or (x.numel() <= COMPARED_NUMBERS and torch.equal(x, y))


def _tensors(model: Any) -> Iterator[tuple[str, Tensor]]:
    options = {"remove_duplicate": False}
    return chain(model.named_parameters(**options), model.named_buffers(**options))


def _plain_key(key: str) -> str:
    """The name of a tensor in a model without adapters."""
    return key.replace(".base_layer.", ".").replace(".original_module.", ".")
