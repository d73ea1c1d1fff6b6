"""What the source of a module's ``forward`` reads: settings that a description must know of."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Set
from functools import cache
from typing import Any


def unknown_reads(module: Any, known: Set[str]) -> list[str]:
    """Attributes of the module or of its config that ``forward`` reads and that are neither known, children, nor off.

    An attribute that is None or False is a switch that is off.
    """
    children = dict(module.named_children()).keys()
    reads = _forward_reads(type(module).forward)
    return [name for name in reads if name not in known | children and not _is_off(module, name)]


def _is_off(module: Any, name: str) -> bool:
    config, missing = getattr(module, "config", None), object()
    values = [getattr(owner, name, missing) for owner in (module, config)]
    return all(value is None or value is False or value is missing for value in values)


@cache
def _forward_reads(forward: Any) -> tuple[str, ...]:
    """Names after ``self.`` and ``config.`` in the source of a method."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(forward)))
    except (OSError, TypeError):
        return ("forward",)  # without source everything is unknown
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    names = {node.attr for node in nodes if ast.unparse(node.value) in ("self", "self.config", "config")}
    return tuple(sorted(names - {"config"}))
