"""A paged key-value cache and an engine for the causal language models of transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_kv.engine.adapters import BASE as BASE_ADAPTER
    from slm_kv.attention.step_batch import LayerShape, PagedStorage, StepBatch
    from slm_kv.attention.interface import attend_for as select_attention
    from slm_kv.pages.paged_cache import PagedCache
    from slm_kv.command_line import add_model_flags
    from slm_kv.command_line import exit_code as run_command
    from slm_kv.command_line import int8_text as read_int8_text
    from slm_kv.command_line import positive as positive_int
    from slm_kv.engine.engine import Engine
    from slm_kv.errors import KVError, PoolFull
    from slm_kv.loading import load
    from slm_kv.linear.packing import pack
    from slm_kv.pages.pool import PagePool
    from slm_kv.engine.requests import Handle, Update
    from slm_kv.sampling.sampler import BadLogits as InvalidLogits
    from slm_kv.sampling.sampler import Choice as SampledToken
    from slm_kv.sampling.params import MOST_LOGPROBS as MAX_LOGPROBS
    from slm_kv.sampling.params import SamplingParams
    from slm_kv.engine.text_stream import TextStream
    from slm_kv.threads import set_threads

__version__ = "0.3.4"

__all__ = [
    "BASE_ADAPTER",
    "MAX_LOGPROBS",
    "Engine",
    "Handle",
    "InvalidLogits",
    "KVError",
    "LayerShape",
    "PagePool",
    "PagedCache",
    "PagedStorage",
    "PoolFull",
    "SampledToken",
    "SamplingParams",
    "StepBatch",
    "TextStream",
    "Update",
    "add_model_flags",
    "load",
    "pack",
    "positive_int",
    "read_int8_text",
    "run_command",
    "select_attention",
    "set_threads",
]

# Imported on first use.
_EXPORTS = {
    "BASE_ADAPTER": "engine.adapters:BASE",
    "Engine": "engine.engine:Engine",
    "Handle": "engine.requests:Handle",
    "InvalidLogits": "sampling.sampler:BadLogits",
    "KVError": "errors:KVError",
    "LayerShape": "attention.step_batch:LayerShape",
    "MAX_LOGPROBS": "sampling.params:MOST_LOGPROBS",
    "PagePool": "pages.pool:PagePool",
    "PagedCache": "pages.paged_cache:PagedCache",
    "PagedStorage": "attention.step_batch:PagedStorage",
    "PoolFull": "errors:PoolFull",
    "SampledToken": "sampling.sampler:Choice",
    "SamplingParams": "sampling.params:SamplingParams",
    "StepBatch": "attention.step_batch:StepBatch",
    "TextStream": "engine.text_stream:TextStream",
    "Update": "engine.requests:Update",
    "add_model_flags": "command_line:add_model_flags",
    "load": "loading:load",
    "pack": "linear.packing:pack",
    "positive_int": "command_line:positive",
    "read_int8_text": "command_line:int8_text",
    "run_command": "command_line:exit_code",
    "select_attention": "attention.interface:attend_for",
    "set_threads": "threads:set_threads",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
