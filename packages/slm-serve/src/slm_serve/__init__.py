"""A small server for base and adapted language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slm_serve.app import create_app
    from slm_serve.settings import Settings

__version__ = "0.2.2"

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> Any:
    """By name on first use: the version is there at once."""
    if name == "create_app":
        from slm_serve.app import create_app

        return create_app
    if name == "Settings":
        from slm_serve.settings import Settings

        return Settings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
