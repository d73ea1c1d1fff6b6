"""A paged key-value cache and an engine for the causal language models of transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_kv.attention.backends import SelectedAttention, select_attention, try_attention
    from slm_kv.attention.layer_attention import LayerAttention
    from slm_kv.attention.step_batch import StepBatch
    from slm_kv.command_line import (
        DefaultsHelpFormatter,
        WeightOptions,
        add_model_flags,
        positive_int,
        run_command,
        weight_options,
    )
    from slm_kv.constraints.compiler import GrammarCompiler
    from slm_kv.constraints.grammar import Grammar
    from slm_kv.engine.adapters import BASE_ADAPTER
    from slm_kv.engine.engine import Engine
    from slm_kv.engine.requests import Handle, TokenScore, Update
    from slm_kv.engine.text_engine import EngineLoad, TextEngine
    from slm_kv.engine.text_stream import TextStream
    from slm_kv.engine_choice import create_engine
    from slm_kv.errors import GrammarError, InvalidLogits, KVError, PoolFull, UnsupportedModel
    from slm_kv.fallback.engine import TransformersEngine
    from slm_kv.lean_imports import import_modelling_code
    from slm_kv.linear.packing import pack
    from slm_kv.loading import load
    from slm_kv.pages.paged_cache import PagedCache
    from slm_kv.pages.pool import PagePool
    from slm_kv.pages.storage import LayerShape, PagedStorage
    from slm_kv.peft_models import RotatedLayer
    from slm_kv.sampling.logprobs import SampledToken
    from slm_kv.sampling.params import MAX_LOGPROBS, SamplingParams
    from slm_kv.threads import set_threads
    from slm_kv.weight_dtype import DtypeChoice, automatic_dtype

__version__ = "0.10.0"

__all__ = [
    "BASE_ADAPTER",
    "MAX_LOGPROBS",
    "DefaultsHelpFormatter",
    "DtypeChoice",
    "Engine",
    "EngineLoad",
    "Grammar",
    "GrammarCompiler",
    "GrammarError",
    "Handle",
    "InvalidLogits",
    "KVError",
    "LayerAttention",
    "LayerShape",
    "PagePool",
    "PagedCache",
    "PagedStorage",
    "PoolFull",
    "RotatedLayer",
    "SampledToken",
    "SamplingParams",
    "SelectedAttention",
    "StepBatch",
    "TextEngine",
    "TextStream",
    "TokenScore",
    "TransformersEngine",
    "UnsupportedModel",
    "Update",
    "WeightOptions",
    "add_model_flags",
    "automatic_dtype",
    "create_engine",
    "import_modelling_code",
    "load",
    "pack",
    "positive_int",
    "run_command",
    "select_attention",
    "set_threads",
    "try_attention",
    "weight_options",
]

# "Name": "module:attribute". Imported on first use, so that a command line can answer --help without torch.
_EXPORTS = {
    "DefaultsHelpFormatter": "command_line:DefaultsHelpFormatter",
    "DtypeChoice": "weight_dtype:DtypeChoice",
    "BASE_ADAPTER": "engine.adapters:BASE_ADAPTER",
    "Engine": "engine.engine:Engine",
    "EngineLoad": "engine.text_engine:EngineLoad",
    "Grammar": "constraints.grammar:Grammar",
    "GrammarCompiler": "constraints.compiler:GrammarCompiler",
    "GrammarError": "errors:GrammarError",
    "Handle": "engine.requests:Handle",
    "InvalidLogits": "errors:InvalidLogits",
    "KVError": "errors:KVError",
    "LayerAttention": "attention.layer_attention:LayerAttention",
    "LayerShape": "pages.storage:LayerShape",
    "MAX_LOGPROBS": "sampling.params:MAX_LOGPROBS",
    "PagePool": "pages.pool:PagePool",
    "PagedCache": "pages.paged_cache:PagedCache",
    "PagedStorage": "pages.storage:PagedStorage",
    "PoolFull": "errors:PoolFull",
    "RotatedLayer": "peft_models:RotatedLayer",
    "SampledToken": "sampling.logprobs:SampledToken",
    "SamplingParams": "sampling.params:SamplingParams",
    "SelectedAttention": "attention.backends:SelectedAttention",
    "StepBatch": "attention.step_batch:StepBatch",
    "TextEngine": "engine.text_engine:TextEngine",
    "TextStream": "engine.text_stream:TextStream",
    "TokenScore": "engine.requests:TokenScore",
    "TransformersEngine": "fallback.engine:TransformersEngine",
    "UnsupportedModel": "errors:UnsupportedModel",
    "Update": "engine.requests:Update",
    "WeightOptions": "command_line:WeightOptions",
    "add_model_flags": "command_line:add_model_flags",
    "automatic_dtype": "weight_dtype:automatic_dtype",
    "create_engine": "engine_choice:create_engine",
    "import_modelling_code": "lean_imports:import_modelling_code",
    "load": "loading:load",
    "pack": "linear.packing:pack",
    "positive_int": "command_line:positive_int",
    "run_command": "command_line:run_command",
    "select_attention": "attention.backends:select_attention",
    "set_threads": "threads:set_threads",
    "try_attention": "attention.backends:try_attention",
    "weight_options": "command_line:weight_options",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
