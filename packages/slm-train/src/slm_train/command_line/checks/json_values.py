"""Flags whose value is a JSON object, or a file that contains one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate.utils import GradientAccumulationPlugin
from transformers.trainer_pt_utils import AcceleratorConfig

from slm_train.errors import UsageError, shown

_ACCUMULATION = "gradient_accumulation_kwargs"
OBJECTS = {
    "lr_scheduler_kwargs": '{"num_cycles": 2}',
    "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
}
OBJECTS_OR_FILES = {
    "accelerator_config": '{"split_batches": true}',
    "fsdp_config": '{"reshard_after_forward": false}',
    "deepspeed": '{"zero_optimization": {"stage": 2}}',
}


def check_json_values(values: Mapping[str, Any]) -> None:
    """Raise UsageError for a value that is not a JSON object, nor a file with one where that is allowed."""
    for name, example in (OBJECTS | OBJECTS_OR_FILES).items():
        value = values.get(name)
        if isinstance(value, str):
            text = value if name in OBJECTS or value.startswith("{") else _text_of(name, value, example)
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
        _check_accelerator(content)


def _check_accelerator(content: Mapping[str, Any]) -> None:
    """Raise UsageError for a key or a value that accelerate does not accept."""
    known = set(vars(AcceleratorConfig()))
    for key, value in content.items():
        if key not in known:
            raise UsageError(f"--accelerator_config has the key {key!r}; choose from {', '.join(sorted(known))}")
        if key == _ACCUMULATION:
            _check_accumulation(value)
        elif not isinstance(value, bool | None) and str(value).lower() not in ("true", "false"):
            raise UsageError(f"--accelerator_config: {key} {shown(str(value))} must be true or false")


def _check_accumulation(value: Any) -> None:
    known = [field.name for field in fields(GradientAccumulationPlugin)]
    if value is not None and (not isinstance(value, dict) or not value.keys() <= set(known)):
        raise UsageError(
            f"--accelerator_config: {_ACCUMULATION} {shown(str(value))} must be an object with some of "
            f"{', '.join(known)}"
        )
