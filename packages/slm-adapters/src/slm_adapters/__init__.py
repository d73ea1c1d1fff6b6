"""Adapters for small language models that fit the model at hand."""

from slm_adapters.errors import AdapterError
from slm_adapters.quiet import quiet_bitsandbytes

with quiet_bitsandbytes():  # peft imports it
    from slm_adapters.bases import FULL_NAMES
    from slm_adapters.butterfly.config import ButterflyConfig
    from slm_adapters.butterfly.ladder import Rotation
    from slm_adapters.butterfly.layer import ButterflyLayer
    from slm_adapters.butterfly.oft import export_oft
    from slm_adapters.butterfly.reference import rotate_reference
    from slm_adapters.butterfly.rotate import rotate, rotation_matrix
    from slm_adapters.butterfly.settings import ButterflySettings, add_butterfly, butterfly_config
    from slm_adapters.butterfly.tuner import ButterflyModel, register
    from slm_adapters.loading import Loaded, load
    from slm_adapters.lora import LoraSettings, add_lora, lora_config
    from slm_adapters.quantization import compute_dtype, four_bit_config, prepare_four_bit
    from slm_adapters.several import LoadedSeveral, load_several
    from slm_adapters.targets import check_targets, default_targets

register()

__version__ = "0.3.0"

__all__ = [
    "FULL_NAMES",
    "AdapterError",
    "ButterflyConfig",
    "ButterflyLayer",
    "ButterflyModel",
    "ButterflySettings",
    "Loaded",
    "LoadedSeveral",
    "LoraSettings",
    "Rotation",
    "add_butterfly",
    "add_lora",
    "butterfly_config",
    "check_targets",
    "compute_dtype",
    "default_targets",
    "export_oft",
    "four_bit_config",
    "load",
    "load_several",
    "lora_config",
    "prepare_four_bit",
    "quiet_bitsandbytes",
    "rotate",
    "rotate_reference",
    "rotation_matrix",
]
