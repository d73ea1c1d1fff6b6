"""An adapter from its folder onto a model, refused where PEFT would load it in part, and into its weights."""

from __future__ import annotations

import warnings
from typing import Any

import peft
from peft import PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.base.hub_errors import hub_error_reason
from slm_adapters.base.model_folder import ADAPTER_CONFIG, ModelFolder
from slm_adapters.errors import AdapterError
from slm_adapters.targets import linear_layers


def attach(model: PreTrainedModel, adapter: ModelFolder, base: str, name: str = "default") -> PreTrainedModel:
    """``model`` with the adapter on it, a PeftModel. It may be one already, of the same method, whose adapters stay,
    and the first of them active. ``base``: what to call the model in errors; ``name``: what PEFT calls the adapter.

    Raises AdapterError for a method that PEFT does not know, and for an adapter of another model.
    """
    config = adapter_config(adapter)
    _check_finite(adapter)
    if hasattr(config, "fan_in_fan_out"):  # PEFT corrects it too, with a warning for each load
        config.fan_in_fan_out = any(isinstance(layer, Conv1D) for layer in linear_layers(model).values())
    device = str(next(model.parameters()).device)
    adapted: Any = model
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error here, below
            if isinstance(model, PeftModel):
                adapted.add_adapter(name, config)
                adapted.load_adapter(str(adapter.path), name, torch_device=device)
            else:
                adapted = PeftModel.from_pretrained(model, str(adapter.path), name, config=config, torch_device=device)
    except Exception as misfit:
        raise _misfit(adapter, base, hub_error_reason(misfit)) from misfit
    _check_complete(adapted, adapter, base, name)
    return adapted


def adapter_config(adapter: ModelFolder) -> Any:
    """PEFT's configuration object. Raises AdapterError for an unknown method and for settings out of range."""
    method = adapter.config.get("peft_type")
    if method not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise AdapterError(
            f"{adapter.path} is an adapter of the method {method!r}, which PEFT {peft.__version__} does not know; "
            "update peft or give another adapter"
        )
    try:
        return PEFT_TYPE_TO_CONFIG_MAPPING[method].from_pretrained(str(adapter.path))
    except AdapterError:
        raise
    except Exception as refused:
        where = adapter.path / ADAPTER_CONFIG
        raise AdapterError(f"{where} cannot be used: {hub_error_reason(refused)}; repair it") from refused


def merge_in(adapted: PreTrainedModel, adapter: ModelFolder) -> PreTrainedModel:
    """The plain model, with the adapter in its weights."""
    merge = getattr(getattr(adapted, "base_model", None), "merge_and_unload", None)
    if merge is None:
        raise AdapterError(f"an adapter of the method {adapter.config['peft_type']} cannot be merged: {adapter.path}")
    merged: PreTrainedModel = merge()
    return merged


def _check_finite(adapter: ModelFolder) -> None:
    for name, values in adapter.values():
        if values.is_floating_point() and not values.isfinite().all():
            raise AdapterError(f"the adapter in {adapter.path} has no finite numbers in {_short(name)}; train it again")


def _check_complete(adapted: Any, adapter: ModelFolder, base: str, name: str) -> None:
    """PEFT leaves layers that the file does not have untrained, and drops those that the model does not have."""
    wanted = set(get_peft_model_state_dict(adapted, adapter_name=name, save_embedding_layers=False))
    found = set(adapter.tensors)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(adapter.config["peft_type"])
    if lacking := sorted(wanted - found):
        raise _misfit(adapter, base, f"it has nothing for {_short(lacking[0])}")
    if left := sorted(name for name in found - wanted if prefix and f".{prefix}" in name):
        raise _misfit(adapter, base, f"the model has no {_short(left[0])}")


def _misfit(adapter: ModelFolder, base: str, why: str) -> AdapterError:
    recorded = adapter.config.get("base_model_name_or_path")
    advice = f"it was trained on {recorded!r}" if recorded else "give the model that it was trained on"
    return AdapterError(f"the adapter in {adapter.path} does not fit {base}: {_short(why)}; {advice}")


def _short(name: str) -> str:
    return name.replace("base_model.model.", "")
