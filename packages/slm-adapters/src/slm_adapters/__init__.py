"""LoRA and butterfly adapters for small causal language models: creating, loading, merging and inspecting them.

Names are imported on first use, so that `import slm_adapters` takes milliseconds and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from slm_adapters.peft_registration import register_with_peft

if TYPE_CHECKING:
    from slm_adapters.base.base_lookup import FULL_NAMES, BaseLocation, find_base, probe_base
    from slm_adapters.base.causality import find_config_fault
    from slm_adapters.base.four_bit import prepare_four_bit
    from slm_adapters.base.gguf.reader import parse_gguf_once
    from slm_adapters.base.gguf_model import (
        check_gguf_model,
        gguf_precision,
        gguf_weight_options,
        restore_gguf_config,
    )
    from slm_adapters.base.hub_errors import HUB_REASONS, as_adapter_error, hub_error_reason, probe_hub
    from slm_adapters.base.log_filters import quiet_bitsandbytes
    from slm_adapters.base.model_folder import (
        ADAPTER_CONFIG,
        MODEL_CONFIG,
        TOKENIZER_FILES,
        ModelFolder,
        read_json,
        read_model_folder,
    )
    from slm_adapters.base.quantization import compute_dtype, four_bit_config
    from slm_adapters.base.soft_cap import apply_soft_cap
    from slm_adapters.base.vocabulary import (
        TokenWithoutRow,
        embedding_rows,
        find_token_without_row,
        resize_embeddings,
    )
    from slm_adapters.butterfly.method.adapter_setup import add_butterfly, butterfly_config
    from slm_adapters.butterfly.method.config import ButterflyConfig
    from slm_adapters.butterfly.method.layer import ButterflyLayer
    from slm_adapters.butterfly.method.oft_export import export_oft
    from slm_adapters.butterfly.method.tuner import ButterflyModel
    from slm_adapters.butterfly.reference import rotate_reference
    from slm_adapters.butterfly.rotate import rotate, rotation_matrix
    from slm_adapters.butterfly.settings import ButterflySettings
    from slm_adapters.butterfly.structure import Rotation
    from slm_adapters.cards.model_card import ModelCard
    from slm_adapters.cards.readme_file import has_own_readme, remove_model_card, write_model_card
    from slm_adapters.cards.run_record import run_card
    from slm_adapters.closed_output import CLOSED_OUTPUT, end_with_output
    from slm_adapters.completion import COMPLETION_FLAG, SHELLS, add_completion, completion_script
    from slm_adapters.errors import AdapterError
    from slm_adapters.export.export import export_gguf, export_gguf_adapter
    from slm_adapters.loading.adapter_loader import AdapterFolder, AdapterLoader
    from slm_adapters.loading.end_tokens import recorded_end_ids
    from slm_adapters.loading.load import Loaded, load, load_tokenizer, read_adapter_folder
    from slm_adapters.loading.multi_adapter import LoadedAdapters, common_base, load_adapters
    from slm_adapters.loading.tokenizers import Tokenizers, load_gguf_tokenizer, load_tokenizers
    from slm_adapters.lora.adapter_setup import add_lora, lora_config
    from slm_adapters.lora.settings import LoraSettings
    from slm_adapters.merging.logit_comparison import (
        LOGIT_TOLERANCE,
        PROBE_TEXT,
        LogitDifference,
        compare_logits,
        probe_ids,
        probe_logits,
    )
    from slm_adapters.merging.merged_folder import MODEL_FILE_SUFFIXES, reload_model, write_model
    from slm_adapters.oft.adapter_setup import add_oft, oft_config
    from slm_adapters.oft.settings import OftSettings
    from slm_adapters.publishing.files import PublishedFile, published_files
    from slm_adapters.targets import check_targets, default_targets

__version__ = "0.12.0"

__all__ = [
    "ADAPTER_CONFIG",
    "CLOSED_OUTPUT",
    "COMPLETION_FLAG",
    "FULL_NAMES",
    "HUB_REASONS",
    "LOGIT_TOLERANCE",
    "MODEL_CONFIG",
    "MODEL_FILE_SUFFIXES",
    "PROBE_TEXT",
    "SHELLS",
    "TOKENIZER_FILES",
    "AdapterError",
    "AdapterFolder",
    "AdapterLoader",
    "BaseLocation",
    "ButterflyConfig",
    "ButterflyLayer",
    "ButterflyModel",
    "ButterflySettings",
    "Loaded",
    "LoadedAdapters",
    "LogitDifference",
    "LoraSettings",
    "ModelCard",
    "ModelFolder",
    "OftSettings",
    "PublishedFile",
    "Rotation",
    "TokenWithoutRow",
    "Tokenizers",
    "add_butterfly",
    "add_completion",
    "add_lora",
    "add_oft",
    "apply_soft_cap",
    "as_adapter_error",
    "butterfly_config",
    "check_gguf_model",
    "check_targets",
    "common_base",
    "compare_logits",
    "completion_script",
    "compute_dtype",
    "default_targets",
    "embedding_rows",
    "end_with_output",
    "export_gguf",
    "export_gguf_adapter",
    "export_oft",
    "find_base",
    "find_config_fault",
    "find_token_without_row",
    "four_bit_config",
    "gguf_precision",
    "gguf_weight_options",
    "has_own_readme",
    "hub_error_reason",
    "load",
    "load_adapters",
    "load_gguf_tokenizer",
    "load_tokenizer",
    "load_tokenizers",
    "lora_config",
    "oft_config",
    "parse_gguf_once",
    "prepare_four_bit",
    "probe_base",
    "probe_hub",
    "probe_ids",
    "probe_logits",
    "published_files",
    "quiet_bitsandbytes",
    "read_adapter_folder",
    "read_json",
    "read_model_folder",
    "recorded_end_ids",
    "reload_model",
    "remove_model_card",
    "resize_embeddings",
    "restore_gguf_config",
    "rotate",
    "rotate_reference",
    "rotation_matrix",
    "run_card",
    "write_model",
    "write_model_card",
]

# "Name": "module:attribute". Imported on first use.
_EXPORTS = {
    "ADAPTER_CONFIG": "base.model_folder:ADAPTER_CONFIG",
    "AdapterError": "errors:AdapterError",
    "AdapterFolder": "loading.adapter_loader:AdapterFolder",
    "AdapterLoader": "loading.adapter_loader:AdapterLoader",
    "BaseLocation": "base.base_lookup:BaseLocation",
    "CLOSED_OUTPUT": "closed_output:CLOSED_OUTPUT",
    "end_with_output": "closed_output:end_with_output",
    "COMPLETION_FLAG": "completion:COMPLETION_FLAG",
    "SHELLS": "completion:SHELLS",
    "add_completion": "completion:add_completion",
    "completion_script": "completion:completion_script",
    "ButterflyConfig": "butterfly.method.config:ButterflyConfig",
    "ButterflyLayer": "butterfly.method.layer:ButterflyLayer",
    "ButterflyModel": "butterfly.method.tuner:ButterflyModel",
    "ButterflySettings": "butterfly.settings:ButterflySettings",
    "HUB_REASONS": "base.hub_errors:HUB_REASONS",
    "FULL_NAMES": "base.base_lookup:FULL_NAMES",
    "LOGIT_TOLERANCE": "merging.logit_comparison:LOGIT_TOLERANCE",
    "Loaded": "loading.load:Loaded",
    "LoadedAdapters": "loading.multi_adapter:LoadedAdapters",
    "LogitDifference": "merging.logit_comparison:LogitDifference",
    "LoraSettings": "lora.settings:LoraSettings",
    "MODEL_CONFIG": "base.model_folder:MODEL_CONFIG",
    "MODEL_FILE_SUFFIXES": "merging.merged_folder:MODEL_FILE_SUFFIXES",
    "ModelCard": "cards.model_card:ModelCard",
    "ModelFolder": "base.model_folder:ModelFolder",
    "OftSettings": "oft.settings:OftSettings",
    "PublishedFile": "publishing.files:PublishedFile",
    "published_files": "publishing.files:published_files",
    "PROBE_TEXT": "merging.logit_comparison:PROBE_TEXT",
    "Rotation": "butterfly.structure:Rotation",
    "TOKENIZER_FILES": "base.model_folder:TOKENIZER_FILES",
    "TokenWithoutRow": "base.vocabulary:TokenWithoutRow",
    "Tokenizers": "loading.tokenizers:Tokenizers",
    "add_butterfly": "butterfly.method.adapter_setup:add_butterfly",
    "add_lora": "lora.adapter_setup:add_lora",
    "add_oft": "oft.adapter_setup:add_oft",
    "apply_soft_cap": "base.soft_cap:apply_soft_cap",
    "as_adapter_error": "base.hub_errors:as_adapter_error",
    "butterfly_config": "butterfly.method.adapter_setup:butterfly_config",
    "check_gguf_model": "base.gguf_model:check_gguf_model",
    "gguf_precision": "base.gguf_model:gguf_precision",
    "gguf_weight_options": "base.gguf_model:gguf_weight_options",
    "parse_gguf_once": "base.gguf.reader:parse_gguf_once",
    "check_targets": "targets:check_targets",
    "common_base": "loading.multi_adapter:common_base",
    "compare_logits": "merging.logit_comparison:compare_logits",
    "compute_dtype": "base.quantization:compute_dtype",
    "default_targets": "targets:default_targets",
    "embedding_rows": "base.vocabulary:embedding_rows",
    "export_gguf": "export.export:export_gguf",
    "export_gguf_adapter": "export.export:export_gguf_adapter",
    "export_oft": "butterfly.method.oft_export:export_oft",
    "find_config_fault": "base.causality:find_config_fault",
    "find_base": "base.base_lookup:find_base",
    "find_token_without_row": "base.vocabulary:find_token_without_row",
    "four_bit_config": "base.quantization:four_bit_config",
    "has_own_readme": "cards.readme_file:has_own_readme",
    "hub_error_reason": "base.hub_errors:hub_error_reason",
    "load": "loading.load:load",
    "load_adapters": "loading.multi_adapter:load_adapters",
    "load_gguf_tokenizer": "loading.tokenizers:load_gguf_tokenizer",
    "load_tokenizer": "loading.load:load_tokenizer",
    "load_tokenizers": "loading.tokenizers:load_tokenizers",
    "lora_config": "lora.adapter_setup:lora_config",
    "oft_config": "oft.adapter_setup:oft_config",
    "prepare_four_bit": "base.four_bit:prepare_four_bit",
    "probe_base": "base.base_lookup:probe_base",
    "probe_hub": "base.hub_errors:probe_hub",
    "probe_ids": "merging.logit_comparison:probe_ids",
    "probe_logits": "merging.logit_comparison:probe_logits",
    "quiet_bitsandbytes": "base.log_filters:quiet_bitsandbytes",
    "read_adapter_folder": "loading.load:read_adapter_folder",
    "read_json": "base.model_folder:read_json",
    "read_model_folder": "base.model_folder:read_model_folder",
    "recorded_end_ids": "loading.end_tokens:recorded_end_ids",
    "reload_model": "merging.merged_folder:reload_model",
    "remove_model_card": "cards.readme_file:remove_model_card",
    "restore_gguf_config": "base.gguf_model:restore_gguf_config",
    "resize_embeddings": "base.vocabulary:resize_embeddings",
    "rotate": "butterfly.rotate:rotate",
    "rotate_reference": "butterfly.reference:rotate_reference",
    "rotation_matrix": "butterfly.rotate:rotation_matrix",
    "run_card": "cards.run_record:run_card",
    "write_model": "merging.merged_folder:write_model",
    "write_model_card": "cards.readme_file:write_model_card",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register_with_peft()  # in case PEFT was half initialised when this module was imported
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


register_with_peft()
