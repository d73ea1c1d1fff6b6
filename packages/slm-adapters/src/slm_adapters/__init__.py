"""Adapters for small language models that fit the model at hand."""

from slm_adapters.errors import AdapterError
from slm_adapters.quiet import quiet_bitsandbytes

with quiet_bitsandbytes():  # peft imports it
    from slm_adapters.bases import FULL_NAMES, find_base
    from slm_adapters.bases import Base as BaseLocation
    from slm_adapters.bases import asked as probe_base
    from slm_adapters.butterfly.config import ButterflyConfig
    from slm_adapters.butterfly.ladder import Rotation
    from slm_adapters.butterfly.layer import ButterflyLayer
    from slm_adapters.butterfly.oft import export_oft
    from slm_adapters.butterfly.reference import rotate_reference
    from slm_adapters.butterfly.rotate import rotate, rotation_matrix
    from slm_adapters.butterfly.settings import ButterflySettings, add_butterfly, butterfly_config
    from slm_adapters.butterfly.tuner import ButterflyModel, register
    from slm_adapters.folders import ADAPTER_CONFIG, MODEL_CONFIG, TOKENIZER_FILES, read_json
    from slm_adapters.folders import Folder as ModelFolder
    from slm_adapters.folders import read_folder as read_model_folder
    from slm_adapters.loading import Loaded, load
    from slm_adapters.loading import read_adapter as read_adapter_folder
    from slm_adapters.loading import tokenizer_of as load_tokenizer
    from slm_adapters.lora import LoraSettings, add_lora, lora_config
    from slm_adapters.merging import PROBE as PROBE_TEXT
    from slm_adapters.merging import TOLERANCE as LOGIT_TOLERANCE
    from slm_adapters.merging import WRITTEN as MODEL_FILE_SUFFIXES
    from slm_adapters.merging import Difference as LogitDifference
    from slm_adapters.merging import difference as compare_logits
    from slm_adapters.merging import logits as probe_logits
    from slm_adapters.merging import probe_ids, write_model
    from slm_adapters.merging import reload as reload_model
    from slm_adapters.quantization import compute_dtype, four_bit_config, prepare_four_bit
    from slm_adapters.several import LoadedSeveral as LoadedAdapters
    from slm_adapters.several import common_base
    from slm_adapters.several import load_several as load_adapters
    from slm_adapters.targets import check_targets, default_targets
    from slm_adapters.trouble import explained as as_adapter_error
    from slm_adapters.trouble import hub_trouble as probe_hub
    from slm_adapters.trouble import reason as hub_error_reason

register()

__version__ = "0.3.0"

__all__ = [
    "ADAPTER_CONFIG",
    "FULL_NAMES",
    "LOGIT_TOLERANCE",
    "MODEL_CONFIG",
    "MODEL_FILE_SUFFIXES",
    "PROBE_TEXT",
    "TOKENIZER_FILES",
    "AdapterError",
    "BaseLocation",
    "ButterflyConfig",
    "ButterflyLayer",
    "ButterflyModel",
    "ButterflySettings",
    "Loaded",
    "LoadedAdapters",
    "LogitDifference",
    "LoraSettings",
    "ModelFolder",
    "Rotation",
    "add_butterfly",
    "add_lora",
    "as_adapter_error",
    "butterfly_config",
    "check_targets",
    "common_base",
    "compare_logits",
    "compute_dtype",
    "default_targets",
    "export_oft",
    "find_base",
    "four_bit_config",
    "hub_error_reason",
    "load",
    "load_adapters",
    "load_tokenizer",
    "lora_config",
    "prepare_four_bit",
    "probe_base",
    "probe_hub",
    "probe_ids",
    "probe_logits",
    "quiet_bitsandbytes",
    "read_adapter_folder",
    "read_json",
    "read_model_folder",
    "reload_model",
    "rotate",
    "rotate_reference",
    "rotation_matrix",
    "write_model",
]
