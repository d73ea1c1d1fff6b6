"""Adapters for small language models that fit the model at hand."""

from slm_adapters.errors import AdapterError
from slm_adapters.quiet import quiet_bitsandbytes

with quiet_bitsandbytes():  # peft imports it
    from slm_adapters.lora import LoraSettings, add_lora, lora_config
    from slm_adapters.quantization import compute_dtype, four_bit_config, prepare_four_bit
    from slm_adapters.targets import check_targets, default_targets

__version__ = "0.1.0"

__all__ = [
    "AdapterError",
    "LoraSettings",
    "add_lora",
    "check_targets",
    "compute_dtype",
    "default_targets",
    "four_bit_config",
    "lora_config",
    "prepare_four_bit",
    "quiet_bitsandbytes",
]
