"""Flags whose value is a JSON object, or a file that contains one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_pt_utils import AcceleratorConfig

from slm_train.errors import UsageError, shown

_OBJECTS = {
    "lr_scheduler_kwargs": '{"num_cycles": 2}',
    "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
}
_OBJECTS_OR_FILES = {
    "accelerator_config": '{"split_batches": true}',
    "fsdp_config": '{"cpu_offload": true}',
    "deepspeed": '{"zero_optimization": {"stage": 2}}',
}


def check_json_values(values: Mapping[str, Any]) -> None:
    """Raise UsageError for a value that is not a JSON object, nor a file with one where that is allowed."""
    for name, example in (_OBJECTS | _OBJECTS_OR_FILES).items():
        value = values.get(name)
        if isinstance(value, str):
            text = value if name in _OBJECTS or value.startswith("{") else _text_of(name, value, example)
            _check_object(name, value, text, example)


def _text_of(name: str, path: str, example: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it cannot be read"
        raise UsageError(f"--{name} {shown(path)}: {reason}; give a JSON file, or an object: '{example}'") from None


def _check_object(name: str, value: str, text: str, example: str) -> None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"--{name} {shown(value)} must be a JSON object, such as '{example}'")
    if name == "accelerator_config":
        known = set(vars(AcceleratorConfig()))
        for key in content.keys() - known:
            raise UsageError(f"--{name} has the key {key!r}; choose from {', '.join(sorted(known))}")
