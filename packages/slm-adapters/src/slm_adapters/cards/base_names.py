"""Names of base models that can be published."""

from __future__ import annotations

import re

from slm_adapters.base.base_lookup import FULL_NAMES, PROVIDERS
from slm_adapters.cards.markdown import escape
from slm_adapters.cards.record_values import Record, text
from slm_adapters.cards.usage import Base

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def base_of(record: Record) -> Base | None:
    """Return the base of a run; None for a model that was trained from random weights."""
    name = text(record, "base")
    if not name:
        return None
    if name in PROVIDERS:
        return Base(name, "built-in")
    revision = text(record, "arguments", "model_revision")
    # Without the entry, as up to slm-train 0.6, a name such as models/mine may be a folder or an id.
    known = name if name in FULL_NAMES.values() else None
    if identifier := hub_id(text(record, "hub", "base")) or known:
        return Base(identifier, "hub", revision)
    return Base(last_part(name), "local")


def base_words(base: Base | None, *, linked: bool = True) -> str:
    """Return the base in words; as Markdown with a link to the hub, or plain."""
    if base is None:
        return "a new model"
    if base.kind == "built-in":
        return f"the built-in base model {base.name}" if not linked else f"`{base.name}`, the built-in base of slm-data"
    if base.kind == "local":
        return f"the local model {escape(base.name) if linked else base.name}"
    return f"[{escape(base.name)}](https://huggingface.co/{base.name})" if linked else base.name


def hub_id(name: str | None) -> str | None:
    """Return ``name`` if it can be an id on the hub, else None."""
    return name if name and _HUB_ID.fullmatch(name) else None


def last_part(path: str) -> str:
    """Return the last part of a path of any system."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or "model"
