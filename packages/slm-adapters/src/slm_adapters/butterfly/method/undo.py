"""Removal of adapters that were placed or loaded only in part, so that a refused adapter leaves the model as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from slm_adapters.butterfly.method.config import ButterflyType
from slm_adapters.butterfly.method.layer import ButterflyLayer

_RECORDS = ("peft_config", "_hf_peft_config_loaded")  # what PEFT and transformers note on a model


@contextmanager
def undone_on_failure(model: nn.Module, adapter_name: str | None = None) -> Iterator[None]:
    """If an exception leaves the block, remove the adapters that were added in it, and raise the exception again.

    Wrapped modules and replaced parameters are put back, and get their former ``requires_grad`` and mode.

    Args:
        model: The model, with adapters or without.
        adapter_name: An adapter that is being added and may have a configuration already.
    """
    state = _ModelState.of(model, adapter_name)
    try:
        yield
    except BaseException:
        state.restore(model)
        raise


@dataclass(frozen=True)
class _ModelState:
    """The adapters of a model, which of them are active, and what is trained.

    ``layers``: the adapters of each butterfly layer, and which of them are active.
    ``wrappers``: modules of PEFT that train a copy of another one, or rows of it, and their active adapter.
    """

    layers: dict[ButterflyLayer, tuple[set[str], Any]]
    wrappers: dict[AuxiliaryTrainingWrapper, Any]
    configs: set[str]
    records: dict[str, Any]
    parameters: dict[nn.Module, dict[str, nn.Parameter | None]]
    requires_grad: list[tuple[nn.Parameter, bool]]
    training: list[tuple[nn.Module, bool]]

    @classmethod
    def of(cls, model: nn.Module, adapter_name: str | None) -> _ModelState:
        modules = list(model.modules())
        layers = {
            module: (set(module.rotations), copy.copy(module._active_adapter))
            for module in modules
            if isinstance(module, ButterflyLayer)
        }
        exists = any(adapter_name in adapters for adapters, _ in layers.values())
        return cls(
            layers=layers,
            wrappers={m: copy.copy(m._active_adapter) for m in modules if isinstance(m, AuxiliaryTrainingWrapper)},
            configs=set(_configs(model)) - (set() if exists else {adapter_name}),
            records={name: vars(model)[name] for name in _RECORDS if name in vars(model)},
            parameters={module: dict(module._parameters) for module in modules},
            requires_grad=[(parameter, parameter.requires_grad) for parameter in model.parameters()],
            training=[(module, module.training) for module in modules],
        )

    def restore(self, model: nn.Module) -> None:
        configs = _configs(model)
        added = {n for n in set(configs) - self.configs if configs[n].peft_type == ButterflyType.BUTTERFLY}
        if not added and not self._has_new_layers(model):
            return  # an adapter of another method
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, ButterflyLayer | AuxiliaryTrainingWrapper):
                    self._restore_module(parent, name, child, added)
        for adapter in added:
            del configs[adapter]
        for name in _RECORDS:
            vars(model).pop(name, None)
        vars(model).update(self.records)
        for module, parameters in self.parameters.items():
            if not isinstance(module, nn.ParameterDict):
                module._parameters.update(parameters)
        for parameter, requires_grad in self.requires_grad:
            parameter.requires_grad_(requires_grad)
        for module, training in self.training:
            module.training = training

    def _has_new_layers(self, model: nn.Module) -> bool:
        return any(isinstance(module, ButterflyLayer) and module not in self.layers for module in model.modules())

    def _restore_module(self, parent: nn.Module, name: str, child: Any, added: set[str]) -> None:
        if child in self.layers:
            adapters, active = self.layers[child]
            _forget(child, set(child.rotations) - adapters)
            child._active_adapter = active
        elif isinstance(child, ButterflyLayer):
            setattr(parent, name, child.base_layer)
        elif child in self.wrappers:
            for adapter in added:
                child.delete_adapter(adapter, None)
            child._active_adapter = self.wrappers[child]
        else:
            setattr(parent, name, child.original_module)


def _forget(layer: ButterflyLayer, adapters: set[str]) -> None:
    """Remove adapters, as ``delete_adapter`` does, but without choosing another active one, with a warning."""
    layer.cache.clear()
    for adapter in adapters:
        layer.compositions.forget(adapter)
    for values in (getattr(layer, name) for name in (*layer.adapter_layer_names, *layer.other_param_names)):
        for adapter in adapters & set(values.keys()):
            del values[adapter]


def _configs(model: Any) -> dict[str, Any]:
    configs: dict[str, Any] = getattr(model, "peft_config", None) or {}
    return configs
