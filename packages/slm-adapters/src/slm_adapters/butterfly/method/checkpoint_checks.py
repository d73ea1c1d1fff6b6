"""Checks of a butterfly checkpoint against the model that it is loaded into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

from slm_adapters.butterfly.method.layer import ButterflyLayer
from slm_adapters.errors import AdapterError

_PEFT_PREFIX = "base_model.model."
_FSDP1_WRAPPER = "_fsdp_wrapped_module."  # in names of modules, not in those of the gathered state


class CheckpointTensors(BaseTuner):  # type: ignore[misc]  # PEFT is partly typed
    """Selects the tensors of an adapter for saving, and checks those that are loaded."""

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor], **others: Any
    ) -> dict[str, Tensor]:
        """Return the adapter's part of ``state_dict``. In blocks that FSDP1 has wrapped, PEFT 0.21 finds nothing."""
        found: dict[str, Tensor] = super()._get_adapter_state_dict(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict, **others
        )
        in_wrapped_blocks = {
            f"{name.replace(_FSDP1_WRAPPER, '')}.{part}.{adapter_name}"
            for name, layer in model.named_modules()
            if _FSDP1_WRAPPER in name and isinstance(layer, ButterflyLayer)
            for part in layer.adapter_layer_names
        }
        return found | {name: state_dict[name] for name in sorted(in_wrapped_blocks & state_dict.keys())}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Refuse checkpoints of which PEFT would silently load only a part."""
        state: dict[str, Tensor] = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        check_checkpoint(model, adapter_name, state)
        return state


def check_checkpoint(model: nn.Module, adapter_name: str, saved: Mapping[str, Tensor]) -> None:
    """Raise AdapterError unless ``saved`` has values for every parameter of the adapter, finite and of its shape.

    Other tensors must be finite too, and be of the embeddings or of modules that are trained as a whole.
    The adapter must not be merged. PEFT 0.21 loads a checkpoint with missing layers or without finite values silently.
    """
    if any(isinstance(layer, ButterflyLayer) and adapter_name in layer.merged_adapters for layer in model.modules()):
        raise AdapterError(f"adapter {adapter_name!r} is merged; call unmerge_adapter before loading other values")
    expected = _adapter_parameters(model, adapter_name)
    for name, parameter in expected.items():
        if name not in saved:
            raise _missing(name)
        if saved[name].shape != parameter.shape:
            raise _misshapen(name, saved[name].shape, parameter.shape)
    _check_finite(saved)
    for name in _unknown_names(model, saved, set(expected)):
        raise _unexpected(name)


def parameters_by_module(model: nn.Module) -> dict[nn.Module, dict[str, nn.Parameter | None]]:
    """Return the parameters of each module, for ``check_loaded``."""
    return {module: dict(module._parameters) for module in model.modules()}


def check_loaded(
    model: nn.Module,
    adapter_name: str,
    loading_info: Any,
    before: Mapping[nn.Module, Mapping[str, nn.Parameter | None]],
) -> None:
    """Raise AdapterError unless transformers has loaded the whole adapter, and nothing else.

    Args:
        model: The model, with the adapter.
        adapter_name: The adapter's name.
        loading_info: transformers' report, with names: ``missing_keys``, ``unexpected_keys``, and ``mismatched_keys``
            with the two shapes.
        before: The result of ``parameters_by_module`` before; transformers loads by replacing parameters.
    """
    expected = _adapter_parameters(model, adapter_name)
    for name, saved_shape, shape in sorted(loading_info.mismatched_keys):
        raise _misshapen(name, saved_shape, shape)
    for name in sorted(expected.keys() & loading_info.missing_keys):
        raise _missing(name)
    _check_finite(expected)
    replaced = [
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        for parameter, values in before.get(module, {}).items()
        if module._parameters.get(parameter) is not values
    ]
    for name in _unknown_names(model, [*sorted(loading_info.unexpected_keys), *replaced], set(expected)):
        raise _unexpected(name)


def check_same_function(adapter_name: str, config: Any, saved: Any) -> None:
    """Raise AdapterError unless values saved with the configuration ``saved`` mean the same to a model with ``config``.

    What else the values depend on, such as the block size, shows in their names and shapes.
    """
    if saved.peft_type != config.peft_type:
        raise AdapterError(
            f"the checkpoint is an adapter of the method {saved.peft_type.value}, not a butterfly adapter"
        )
    if saved.strength != config.strength:
        raise AdapterError(
            f"the checkpoint was saved with strength {saved.strength:g}, and adapter {adapter_name!r} has strength "
            f"{config.strength:g}; call set_strength({saved.strength:g}, {adapter_name!r}) first, or load it under "
            "another name and with its own configuration"
        )


def _adapter_parameters(model: nn.Module, adapter_name: str | None = None) -> dict[str, Tensor]:
    """Return the angles and magnitudes of an adapter, or of all, by their names in the model."""
    return {
        f"{name}.{part}.{adapter}": parameter
        for name, layer in model.named_modules()
        if isinstance(layer, ButterflyLayer)
        for part in layer.adapter_layer_names
        for adapter, parameter in getattr(layer, part).items()
        if adapter_name in (None, adapter)
    }


def _unknown_names(model: nn.Module, saved: Iterable[str], expected: set[str]) -> list[str]:
    """Return the names of tensors that are neither of the adapter nor of other modules that PEFT saves with one.

    PEFT 0.21 saves some tensors of these modules twice, once under a name that no model has.
    """
    others = tuple(f"{name}." for name in _other_saved_modules(model))
    angles = set(_adapter_parameters(model)) - expected

    def is_known(name: str) -> bool:
        return name in expected or (name.startswith(others) and name not in angles)

    return [name for name in saved if not (is_known(name) or is_known(name.removeprefix(_PEFT_PREFIX)))]


def _other_saved_modules(model: Any) -> list[str]:
    """Return the names of the embeddings, and of the modules of which PEFT trains a copy or rows."""
    embeddings = []
    for get in ("get_input_embeddings", "get_output_embeddings"):
        try:
            embeddings.append(getattr(model, get)())
        except (AttributeError, NotImplementedError):  # not a language model
            continue
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, AuxiliaryTrainingWrapper) or any(module is layer for layer in embeddings)
    ]


def _check_finite(saved: Mapping[str, Tensor]) -> None:
    for name, values in saved.items():
        if values.is_floating_point() and not torch.isfinite(values).all():
            raise AdapterError(
                f"{_label(name)}: the checkpoint has values that are not finite; train it again or copy it again"
            )


def _missing(name: str) -> AdapterError:
    return AdapterError(f"the checkpoint has no {_label(name)}; it was made for other layers or another side")


def _misshapen(name: str, saved: Iterable[int], expected: Iterable[int]) -> AdapterError:
    return AdapterError(
        f"{_label(name)}: the checkpoint has the shape {list(saved)}, the model {list(expected)}; it was made for "
        "another width, block size or number of stages"
    )


def _unexpected(name: str) -> AdapterError:
    return AdapterError(
        f"the checkpoint has {name.removeprefix(_PEFT_PREFIX)}, which this model does not have; it was made for other "
        "layers"
    )


def _label(name: str) -> str:
    """``name`` without PEFT's prefix, and without the name of the adapter at the end."""
    layer, _, last = name.removeprefix(_PEFT_PREFIX).rpartition(".")
    return layer if ".butterfly_" in layer else f"{layer}.{last}"
