"""Removing paths of this machine from the JSON files of a folder that is published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slm_adapters.cards.base_names import last_part
from slm_adapters.cards.usage import Base

# Absolute paths, also those of Windows, and paths that begin at the home or at the current folder.
_LOCAL_PATH = re.compile(r"(/|~|\.{1,2}[/\\]|[A-Za-z]:[\\/]|\\\\).+", re.DOTALL)
_TEXTS = {"samples", "prompt"}  # of run.json; a text may begin like a path
_NAMES = ("_name_or_path", "name_or_path")  # where a config or a tokenizer was loaded from


def is_local_path(text: str) -> bool:
    """Return whether ``text`` can only be a path, rather than a name on the hub."""
    return bool(_LOCAL_PATH.fullmatch(text))


def without_local_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of config.json or tokenizer_config.json without the folder that it was loaded from."""
    return {name: value for name, value in config.items() if name not in _NAMES or not is_local_path(str(value))}


def published_record(run: Mapping[str, Any], base: Base | None) -> dict[str, Any]:
    """Return run.json with each path shortened to its last part, and the name of the base that is published."""
    record = {name: value if name in _TEXTS else _shortened(value) for name, value in run.items()}
    if base and "base" in record:
        record["base"] = base.name
    return record


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return last_part(value) if is_local_path(value) else value
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name in _TEXTS else _shortened(item) for name, item in value.items()}
    return value
