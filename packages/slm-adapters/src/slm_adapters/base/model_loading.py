"""A base model in memory, whole or in 4 bits, and what may be wrong with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from slm_adapters.base.base_lookup import BaseLocation
from slm_adapters.base.four_bit import prepare_four_bit
from slm_adapters.base.hub_errors import as_adapter_error
from slm_adapters.base.layer_weights import read_weight, write_weight
from slm_adapters.base.log_filters import quiet_bitsandbytes, quiet_loading_report
from slm_adapters.base.quantization import four_bit_config, is_quantized
from slm_adapters.errors import AdapterError


def load_base(base: BaseLocation, device: torch.device, dtype: torch.dtype, four_bit: bool) -> PreTrainedModel:
    """The model on ``device``, in ``dtype``, or in 4 bits that multiply in ``dtype``, laid out as for training.

    Raises AdapterError for a model that cannot be had, is damaged, or lacks weights.
    """
    settings: dict[str, Any] = {"dtype": dtype}
    if four_bit:
        quantization = four_bit_config(dtype)
        settings = {"dtype": torch.float32, "quantization_config": quantization, "device_map": {"": device}}
    with (
        as_adapter_error(f"the model {base.name}", base.remedy, base.hub_error),
        quiet_bitsandbytes(),
        quiet_loading_report(),
    ):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.location,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, in a sentence
            **base.from_pretrained_options,
            **settings,
        )
    model, report = loaded
    _check_complete(base, model, report)
    return prepare_four_bit(model, gradient_checkpointing=False) if four_bit else model.to(device)


def _check_complete(base: BaseLocation, model: PreTrainedModel, report: dict[str, Any]) -> None:
    if getattr(model, "_hf_peft_config_loaded", False):
        raise AdapterError(f"{base.name} on the hub holds an adapter; download it, and give its folder")
    if missing := sorted(report["missing_keys"]):
        raise AdapterError(
            f"the weights of {base.name} lack {missing[0]}, which its config.json asks for ({len(missing)} in all); "
            "copy it again"
        )
    if mismatched := sorted(map(str, report["mismatched_keys"])):
        raise AdapterError(
            f"the weights of {base.name} have other shapes than its config.json says, such as {mismatched[0]} "
            f"({len(mismatched)} in all); copy it again"
        )


def copy_dequantised(small: PreTrainedModel, whole: PreTrainedModel) -> None:
    """Give each layer of ``whole`` the weight that the 4-bit layer of that name in ``small`` multiplies by."""
    for name, layer in small.named_modules():
        if is_quantized(layer):
            write_weight(whole.get_submodule(name), read_weight(layer), None)


def cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """The parameters alone: rotary frequencies are buffers, and stay float32 as ``from_pretrained`` keeps them."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


@torch.no_grad()
def check_finite(model: PreTrainedModel, source: str | Path) -> None:
    """Raises AdapterError, with its name, for a weight that is not a finite number."""
    quantized = {name: layer for name, layer in model.named_modules() if is_quantized(layer)}
    held = {name: weight for name, weight in model.named_parameters() if weight.is_floating_point()}
    for name, weight in held.items():
        _refuse_unless_finite(name, weight, source)
    for name, layer in quantized.items():
        _refuse_unless_finite(name, read_weight(layer), source)


def _refuse_unless_finite(name: str, weight: torch.Tensor, source: str | Path) -> None:
    if not torch.isfinite(weight).all():
        layer = name.removeprefix("base_model.model.")
        raise AdapterError(f"{source}: {layer} has weights that are no finite numbers; train it again or copy it again")
