"""Loading a base model, in floating point or in 4 bits, and checking its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from slm_adapters.base.base_lookup import BaseLocation
from slm_adapters.base.causality import find_config_fault
from slm_adapters.base.gguf_model import check_gguf_model, gguf_weight_options
from slm_adapters.base.hub_errors import as_adapter_error
from slm_adapters.base.layer_weights import read_weight, write_weight
from slm_adapters.base.log_filters import quiet_bitsandbytes, quiet_loading_report
from slm_adapters.base.meta_initialization import SkipMetaValues
from slm_adapters.base.quantization import four_bit_config, is_quantized
from slm_adapters.base.soft_cap import apply_soft_cap
from slm_adapters.errors import AdapterError

STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_base(base: BaseLocation, device: torch.device, dtype: torch.dtype, four_bit: bool) -> PreTrainedModel:
    """Load the model on ``device`` in ``dtype``, or in 4 bits (multiplied in ``dtype``, prepared as for training).

    Raises AdapterError for a model that cannot be found, is damaged, lacks weights, or is not a causal language model.
    """
    _check_causal(base)
    options: dict[str, Any] = {"dtype": dtype} | gguf_weight_options(base)
    if four_bit:
        quantization = four_bit_config(dtype)
        options = {"dtype": torch.float32, "quantization_config": quantization, "device_map": {"": device}}
    errors = as_adapter_error(f"the model {base.name}", base.remedy, base.hub_error)
    with errors, quiet_bitsandbytes(), quiet_loading_report(), SkipMetaValues():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.location,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # _check_complete refuses them in one sentence
            **base.from_pretrained_options,
            **options,
        )
    model, report = loaded
    _check_complete(base, model, report)
    check_gguf_model(base, model)
    apply_soft_cap(model)
    if not four_bit:
        return model.to(device)
    from slm_adapters.base.four_bit import prepare_four_bit  # imports PEFT: seconds that a plain model does not need

    return prepare_four_bit(model, gradient_checkpointing=False)


def checkpoint_dtype(base: BaseLocation) -> torch.dtype:
    """Return the dtype in which the base's weights are stored: by the files of a folder, else by the hub's config."""
    if base.folder:
        return STORED_DTYPES[base.folder.dtype]
    errors = as_adapter_error(f"the model {base.name}", base.remedy, base.hub_error)
    with errors:
        config = AutoConfig.from_pretrained(base.location, trust_remote_code=False, **base.from_pretrained_options)
    dtype = getattr(config.get_text_config(), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _check_causal(base: BaseLocation) -> None:
    """Refuse models with an encoder, which transformers loads without it, and models without a causal variant."""
    try:
        config = AutoConfig.from_pretrained(base.location, trust_remote_code=False, **base.from_pretrained_options)
    except Exception:
        return  # loading the model reports the reason, or knows what to do with a repository without config.json
    if fault := find_config_fault(config):
        raise AdapterError(f"{base.name}: {fault}; give a model that continues text")


def _check_complete(base: BaseLocation, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Refuse what transformers only warns about: it fills missing weights with random values."""
    # transformers loads an adapter's repository by fetching the base that it names.
    if getattr(model, "_hf_peft_config_loaded", False):
        raise AdapterError(f"{base.name} on the hub holds an adapter; download it, and give its folder")
    if missing := sorted(report["missing_keys"]):
        raise AdapterError(
            f"the weights of {base.name} lack {missing[0]}, which its config.json requires ({len(missing)} in all); "
            "copy it again"
        )
    if mismatched := sorted(map(str, report["mismatched_keys"])):
        raise AdapterError(
            f"the weights of {base.name} have other shapes than its config.json says, such as {mismatched[0]} "
            f"({len(mismatched)} in all); copy it again"
        )


def copy_dequantized(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Write the dequantized weight of each 4-bit layer of ``source`` to the layer of the same name in ``target``."""
    for name, layer in source.named_modules():
        if is_quantized(layer):
            write_weight(target.get_submodule(name), read_weight(layer), None)


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the parameters in place. As in ``from_pretrained``, buffers such as rotary frequencies stay float32."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


@torch.no_grad()
def check_finite(model: PreTrainedModel, source: str | Path) -> None:
    """Raise AdapterError, with the name of the weight, if a weight of ``model`` (from ``source``) is not finite."""
    floating = {name: weight for name, weight in model.named_parameters() if weight.is_floating_point()}
    quantized = {name: layer for name, layer in model.named_modules() if is_quantized(layer)}
    for name, weight in floating.items():
        _check_finite_weight(name, weight, source)
    for name, layer in quantized.items():  # dequantized one at a time
        _check_finite_weight(name, read_weight(layer), source)


def _check_finite_weight(name: str, weight: torch.Tensor, source: str | Path) -> None:
    # NaN and infinities show in the extremes; these take a tenth of the time of a test of each number. torch has no
    # extremes of 8-bit floats.
    weight = weight.float() if weight.element_size() == 1 else weight
    if weight.numel() and not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
        layer = name.removeprefix("base_model.model.")
        raise AdapterError(f"{source}: {layer} has weights that are not finite; train it again or copy it again")
