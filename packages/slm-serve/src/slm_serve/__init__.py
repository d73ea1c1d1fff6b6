"""A small server for base and adapted language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_serve.app import create_app
    from slm_serve.backends.answer import Answer, Delta
    from slm_serve.backends.protocol import Backend, Job
    from slm_serve.backends.vllm.backend import VLLMBackend
    from slm_serve.settings import Settings

__version__ = "0.2.2"

__all__ = [
    "Answer",
    "Backend",
    "Delta",
    "Job",
    "Settings",
    "VLLMBackend",
    "create_app",
]

# Imported on first use.
_EXPORTS = {
    "Answer": "backends.answer:Answer",
    "Backend": "backends.protocol:Backend",
    "Delta": "backends.answer:Delta",
    "Job": "backends.protocol:Job",
    "Settings": "settings:Settings",
    "VLLMBackend": "backends.vllm.backend:VLLMBackend",
    "create_app": "app:create_app",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
