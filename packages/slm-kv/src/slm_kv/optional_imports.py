"""Imports of modules whose dependencies may be missing."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def import_optional(name: str) -> Any:
    """Import ``slm_kv.<name>``, or return None if one of its dependencies is not installed.

    numba may not support a new Python release yet, and torch installs triton on Linux only. The result is cached,
    because a missing module would otherwise be searched for at each call.
    """
    try:
        return import_module(f"slm_kv.{name}")
    except ImportError:
        return None
