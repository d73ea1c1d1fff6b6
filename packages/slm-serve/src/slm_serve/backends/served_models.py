"""Served models and the names by which clients select them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slm_serve.errors import StartError
from slm_serve.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slm_adapters import Tokenizers


@dataclass(frozen=True)
class ServedModel:
    """A model under the name that clients use.

    Args:
        parent: served name of the base, for an adapter; None for the base itself.
        weights: how the weights are used: ``as they are``, ``merged`` or ``unmerged``.
    """

    name: str
    kind: Literal["base", "adapter"]
    parent: str | None
    weights: str


def served_models(settings: Settings, base: str, adapter_weights: Mapping[str, str]) -> dict[str, ServedModel]:
    """Return the served models by name, the default first.

    Args:
        base: hub name or folder of the base. Clients see only the last part of a folder, never a path.
        adapter_weights: for each adapter name, how its weights are used.

    Raises StartError if the base and an adapter have the same name.
    """
    base_name = settings.served_model_name or _public_name(base)
    if base_name in adapter_weights:
        raise StartError(f"the base and an adapter are both named {base_name!r}; give another --served_model_name")
    models = {base_name: ServedModel(base_name, "base", None, "as they are")}
    models |= {name: ServedModel(name, "adapter", base_name, weights) for name, weights in adapter_weights.items()}
    default = settings.default_adapter or base_name
    return {default: models[default], **models}


def served_tokenizers(served: Mapping[str, ServedModel], tokenizers: Tokenizers) -> dict[str, PreTrainedTokenizerBase]:
    """Return the tokenizer of each served model; none for a base with another vocabulary than its adapters."""
    own = {name: tokenizers.adapters.get(name, tokenizers.base) for name in served}
    return {name: tokenizer for name, tokenizer in own.items() if tokenizer is not None}


def _public_name(base: str) -> str:
    is_hub_name = "/" in base and not Path(base).exists()
    return base if is_hub_name else Path(base).name
