"""Attaching an adapter from its folder to a model, and merging it into the weights.

PEFT loads an adapter that fits only in part, with a warning; here that is an error.
"""

from __future__ import annotations

import warnings
from typing import Any

import peft
from peft import PeftModel, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from slm_adapters.adaptation.injection import restore_tied_head
from slm_adapters.base.base_lookup import recorded_base
from slm_adapters.base.hub_errors import hub_error_reason
from slm_adapters.base.model_folder import ADAPTER_CONFIG, ModelFolder
from slm_adapters.errors import AdapterError
from slm_adapters.oft.conv1d_layers import restore_conv1d, use_linear_layers
from slm_adapters.targets import linear_layers


def attach_adapter(
    model: PreTrainedModel, adapter: ModelFolder, base_name: str, adapter_name: str = "default"
) -> PreTrainedModel:
    """Return a PeftModel around ``model`` with the adapter attached.

    Args:
        model: A plain model, or a PeftModel with adapters of the same method, the first of which stays active.
        adapter: The adapter's folder.
        base_name: The name of the model in error messages.
        adapter_name: The name of the adapter in PEFT.

    Raises:
        AdapterError: For a method that PEFT does not know, and for an adapter of another model.
    """
    config = read_adapter_config(adapter)
    _check_finite(adapter)
    if config.peft_type == "OFT":
        use_linear_layers(model)
    if hasattr(config, "fan_in_fan_out"):  # PEFT 0.21 corrects a wrong value too, but warns on each load
        config.fan_in_fan_out = any(isinstance(layer, Conv1D) for layer in linear_layers(model).values())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # _check_complete refuses them
            adapted = _attach_with_peft(model, adapter, config, adapter_name)
    except Exception as error:
        raise _misfit(adapter, base_name, hub_error_reason(error)) from error
    _check_complete(adapted, adapter, base_name, adapter_name)
    restore_tied_head(adapted, adapter_name)
    return adapted


def _attach_with_peft(model: PreTrainedModel, adapter: ModelFolder, config: Any, adapter_name: str) -> PreTrainedModel:
    device = str(next(model.parameters()).device)
    path = str(adapter.path)
    if isinstance(model, PeftModel):
        adapted: Any = model
        adapted.add_adapter(adapter_name, config)
        adapted.load_adapter(path, adapter_name, torch_device=device)
        return model
    return PeftModel.from_pretrained(model, path, adapter_name, config=config, torch_device=device)


def read_adapter_config(adapter: ModelFolder) -> Any:
    """Return PEFT's configuration object. Raises AdapterError for an unknown method and for values out of range."""
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
    except Exception as error:
        path = adapter.path / ADAPTER_CONFIG
        raise AdapterError(f"{path} cannot be used: {hub_error_reason(error)}; repair it") from error


def merge_adapter(adapted: PreTrainedModel, adapter: ModelFolder) -> PreTrainedModel:
    """Return the plain model with the adapter merged. Raises AdapterError if its method cannot be merged."""
    merge = getattr(getattr(adapted, "base_model", None), "merge_and_unload", None)
    if merge is None:
        raise AdapterError(f"an adapter of the method {adapter.config['peft_type']} cannot be merged: {adapter.path}")
    merged: PreTrainedModel = merge()
    return restore_conv1d(merged)


def _check_finite(adapter: ModelFolder) -> None:
    for name, values in adapter.values():
        if values.is_floating_point() and not values.isfinite().all():
            raise AdapterError(
                f"the adapter in {adapter.path} has values that are not finite in {_short(name)}; train it again"
            )


def _check_complete(adapted: Any, adapter: ModelFolder, base_name: str, adapter_name: str) -> None:
    """Refuse partial matches: PEFT leaves layers without values untrained, and ignores values without a layer."""
    expected = set(get_peft_model_state_dict(adapted, adapter_name=adapter_name, save_embedding_layers=False))
    saved = set(adapter.tensors)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(adapter.config["peft_type"])
    if missing := sorted(expected - saved):
        raise _misfit(adapter, base_name, f"it has no values for {_short(missing[0])}")
    if unused := sorted(name for name in saved - expected if prefix and f".{prefix}" in name):
        raise _misfit(adapter, base_name, f"the model has no {_short(unused[0])}")


def _misfit(adapter: ModelFolder, base_name: str, reason: str) -> AdapterError:
    recorded = recorded_base(adapter)
    remedy = f"it was trained on {recorded!r}" if recorded else "give the model that it was trained on"
    return AdapterError(f"the adapter in {adapter.path} does not fit {base_name}: {_short(reason)}; {remedy}")


def _short(name: str) -> str:
    """``name`` without the prefix of PEFT's wrapper."""
    return name.replace("base_model.model.", "")
