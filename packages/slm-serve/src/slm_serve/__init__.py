"""A small server for base and adapted language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_serve.answer import Answer, Delta
    from slm_serve.app import create_app
    from slm_serve.backend import Backend, Job
    from slm_serve.settings import Settings
    from slm_serve.vllm_backend import VLLMBackend

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
    "Answer": "answer:Answer",
    "Backend": "backend:Backend",
    "Delta": "answer:Delta",
    "Job": "backend:Job",
    "Settings": "settings:Settings",
    "VLLMBackend": "vllm_backend:VLLMBackend",
    "create_app": "app:create_app",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
