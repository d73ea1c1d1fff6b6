"""Imports of modules whose dependencies may be missing."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def import_optional(name: str) -> Any:
    """Import ``slm_kv.<name>``, or return None if one of its dependencies is not installed.

    numba may lag behind a new Python release, and torch installs triton on Linux only. Modules with numba kernels
    compile them on their first import, so the result is cached.
    """
    try:
        return import_module(f"slm_kv.{name}")
    except ImportError:
        return None
