"""Modules of this package that need what may not be there."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def optional(name: str) -> Any:
    """The module ``slm_kv.<name>``, compiled when it is first asked for; None without numba, which may not be there for
    a new Python, or triton, which torch brings for Linux alone."""
    try:
        return import_module(f"slm_kv.{name}")
    except ImportError:
        return None
