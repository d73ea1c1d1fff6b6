"""An HTTP server for a base language model and its adapters."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_serve.app import create_app
    from slm_serve.backends.answer import Answer, Delta
    from slm_serve.backends.protocol import Backend, Job
    from slm_serve.backends.vllm.backend import VLLMBackend
    from slm_serve.errors import ServeError
    from slm_serve.http.schemas.generate import GenerateRequest
    from slm_serve.server import Server
    from slm_serve.settings import Settings

__version__ = "0.9.0"

__all__ = [
    "Answer",
    "Backend",
    "Delta",
    "GenerateRequest",
    "Job",
    "ServeError",
    "Server",
    "Settings",
    "VLLMBackend",
    "create_app",
]

# Imported on first use, so that `import slm_serve` and `slm-serve --help` do not load torch.
_EXPORTS = {
    "Answer": "backends.answer:Answer",
    "Backend": "backends.protocol:Backend",
    "Delta": "backends.answer:Delta",
    "GenerateRequest": "http.schemas.generate:GenerateRequest",
    "Job": "backends.protocol:Job",
    "ServeError": "errors:ServeError",
    "Server": "server:Server",
    "Settings": "settings:Settings",
    "VLLMBackend": "backends.vllm.backend:VLLMBackend",
    "create_app": "app:create_app",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), attribute)
