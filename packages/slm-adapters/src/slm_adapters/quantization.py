"""The door to bitsandbytes: 4-bit bases (Dettmers et al. 2023, arXiv:2305.14314), and 8-bit ones."""

from __future__ import annotations

from typing import Any

import torch
from peft import prepare_model_for_kbit_training
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from slm_adapters.errors import AdapterError
from slm_adapters.quiet import quiet_bitsandbytes


def four_bit_config(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation; matrices are multiplied in ``compute_dtype``.

    Raises AdapterError where bitsandbytes has no wheel for the machine.
    """
    with quiet_bitsandbytes():
        try:
            import bitsandbytes  # noqa: F401  # only whether it is there: transformers uses it
        except ImportError as missing:
            raise AdapterError(
                "qlora needs bitsandbytes, which is not installed (it has wheels for Linux, Windows and "
                "Apple silicon); use --mode lora"
            ) from missing
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def compute_dtype(device: torch.device, bf16: bool) -> torch.dtype:
    """bfloat16 where the device multiplies in it, float16 on older GPUs, float32 on older CPUs."""
    if bf16:
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def prepare_four_bit(model: PreTrainedModel, *, gradient_checkpointing: bool) -> PreTrainedModel:
    """Freeze a 4-bit model for adapters: norms and embeddings in float32, as PEFT advises."""
    for layer in model.modules():
        keep_layout(layer)
    return prepare_model_for_kbit_training(
        model,
        use_gradient_checkpointing=gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )


def keep_layout(layer: nn.Module) -> None:
    """Keep a 4-bit layer from being repacked, and undo it where it has been; any other layer is left alone.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks the weights at the first evaluation for a
    kernel without a gradient: their scales are rounded to bfloat16, what is trained afterwards gets wrong
    gradients, and widths that are no multiple of a block fail. What the repacking rounded stays rounded.
    """
    held: Any = layer
    if hasattr(held, "support_avx512bf16_for_cpu"):
        held.support_avx512bf16_for_cpu = False
        if getattr(held.weight.quant_state, "packing_format_for_cpu", False):
            held.state_dict()  # saving puts the weight itself back


def is_quantized(layer: nn.Module) -> bool:
    """Whether ``layer`` holds its weight in 4 or 8 bits of bitsandbytes."""
    return type(getattr(layer, "weight", None)).__name__ in ("Params4bit", "Int8Params")


def dequantized(layer: nn.Module) -> Tensor:
    """The weight ``[out, in]`` that a 4-bit or 8-bit layer multiplies by, in floating point."""
    held: Any = layer
    if type(held.weight).__name__ == "Params4bit":
        weight: Tensor = dequantize_bnb_weight(held.weight, state=held.weight.quant_state)
        return weight
    if held.state.SCB is None:
        held.state.SCB = held.weight.SCB
    return dequantize_bnb_weight(held.weight, state=held.state)


def requantize(layer: nn.Module, weight: Tensor) -> None:
    """Put ``weight`` ``[out, in]`` into a 4-bit or 8-bit layer, rounded to what it can hold; what it held before is
    left as it is."""
    import bitsandbytes as bnb

    held: Any = layer
    old, device = held.weight, held.weight.device
    plain = weight.detach().to("cpu", torch.float32).contiguous()
    if type(old).__name__ == "Params4bit":
        settings = {"quant_type": old.quant_type, "blocksize": old.blocksize, "quant_storage": old.quant_storage}
        double = {"compress_statistics": old.compress_statistics}
        held.weight = bnb.nn.Params4bit(plain, requires_grad=False, **settings, **double).to(device)
        return
    held.weight = bnb.nn.Int8Params(plain, requires_grad=False, has_fp16_weights=False).to(device)
    held.state = bnb.MatmulLtState()
    held.state.threshold, held.state.has_fp16_weights = 0.0, False
