"""The only module that uses bitsandbytes: configuration and weights of 4-bit and 8-bit layers.

4-bit bases: Dettmers et al. 2023, arXiv:2305.14314. No import of PEFT here: the butterfly method imports this module
while PEFT may be half initialised (see ``slm_adapters.peft_registration``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from slm_adapters.base.log_filters import quiet_bitsandbytes
from slm_adapters.errors import AdapterError


def four_bit_config(compute_dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return a configuration for NF4 with double quantization that multiplies in ``compute_dtype``.

    Raises AdapterError if bitsandbytes is not installed; it has no wheels for some platforms.
    """
    with quiet_bitsandbytes():
        try:
            import bitsandbytes  # noqa: F401  # transformers needs it; imported here to check that it is installed
        except ImportError as error:
            raise AdapterError(
                "qlora needs bitsandbytes, which is not installed (it has wheels for Linux, Windows and "
                "Apple silicon); use --mode lora"
            ) from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


def compute_dtype(device: torch.device, bf16: bool) -> torch.dtype:
    """Return bfloat16 if the device multiplies in it (``bf16``), else float16 on a GPU and float32 on a CPU."""
    if bf16:
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def keep_layout(layer: nn.Module) -> None:
    """Prevent bitsandbytes from repacking a 4-bit layer, and undo a repacking. Other layers are left unchanged.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks the weights at the first evaluation for a kernel that has no
    gradient. Their scales are rounded to bfloat16, so later training gets wrong gradients, and widths that are not a
    multiple of a quantization block fail. Undoing it restores the layout; the rounding of the scales remains.
    """
    linear: Any = layer
    if hasattr(linear, "support_avx512bf16_for_cpu"):
        linear.support_avx512bf16_for_cpu = False
        if getattr(linear.weight.quant_state, "packing_format_for_cpu", False):
            linear.state_dict()  # bitsandbytes 0.50 unpacks the weight in place in order to save it


def is_quantized(layer: nn.Module) -> bool:
    """Whether ``layer`` holds its weight in bitsandbytes' 4 or 8 bits."""
    return _is_four_bit(layer) or _weight_type(layer) == "Int8Params"


def dequantized(layer: nn.Module) -> Tensor:
    """Return the weight ``[out, in]`` that a 4-bit or 8-bit layer multiplies by, in floating point."""
    import bitsandbytes as bnb

    linear: Any = layer
    if _is_four_bit(layer):
        weight: Tensor = bnb.functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
        return weight
    if linear.state.SCB is None:  # the scales move to the state at the first forward pass
        linear.state.SCB = linear.weight.SCB
    scales = linear.state.SCB.to(linear.weight.device)
    return bnb.functional.int8_vectorwise_dequant(linear.weight.data, scales)


def requantize(layer: nn.Module, weight: Tensor) -> None:
    """Set the weight ``[out, in]`` of a 4-bit or 8-bit layer, quantized with the layer's own settings.

    The layer gets new parameter objects; its previous ones are not modified.
    """
    import bitsandbytes as bnb

    linear: Any = layer
    old, device = linear.weight, linear.weight.device
    plain = weight.detach().to("cpu", torch.float32).contiguous()
    if _is_four_bit(layer):
        linear.weight = bnb.nn.Params4bit(
            plain,
            requires_grad=False,
            quant_type=old.quant_type,
            blocksize=old.blocksize,
            quant_storage=old.quant_storage,
            compress_statistics=old.compress_statistics,
        ).to(device)
        return
    linear.weight = bnb.nn.Int8Params(plain, requires_grad=False, has_fp16_weights=False).to(device)
    linear.state = bnb.MatmulLtState()
    linear.state.threshold, linear.state.has_fp16_weights = 0.0, False


def _is_four_bit(layer: nn.Module) -> bool:
    return _weight_type(layer) == "Params4bit"


def _weight_type(layer: nn.Module) -> str:
    """The class name of the weight: comparing names needs no import of bitsandbytes."""
    return type(getattr(layer, "weight", None)).__name__
