"""A paged key-value cache and an engine for the causal language models of transformers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_kv.cache import PagedCache
    from slm_kv.engine import Engine
    from slm_kv.errors import KVError, PoolFull
    from slm_kv.loading import load
    from slm_kv.packing import pack
    from slm_kv.pages import PagePool
    from slm_kv.requests import Handle, Update
    from slm_kv.sampling_params import SamplingParams

__version__ = "0.3.4"

__all__ = [
    "Engine",
    "Handle",
    "KVError",
    "PagePool",
    "PagedCache",
    "PoolFull",
    "SamplingParams",
    "Update",
    "load",
    "pack",
]

# By name on first use: the bookkeeping of pages is there without torch.
_HOMES = {
    "Engine": "engine",
    "Handle": "requests",
    "KVError": "errors",
    "PagePool": "pages",
    "PagedCache": "cache",
    "PoolFull": "errors",
    "SamplingParams": "sampling_params",
    "Update": "requests",
    "load": "loading",
    "pack": "packing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
