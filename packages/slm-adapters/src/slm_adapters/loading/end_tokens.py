"""Tokens that end a text, as an adapter records them: those with which it was trained to end its answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from slm_adapters.base.model_folder import ModelFolder, read_json
from slm_adapters.errors import AdapterError

GENERATION_CONFIG = "generation_config.json"


def recorded_end_ids(adapter: ModelFolder) -> list[int]:
    """Return the end-of-text tokens in the generation_config.json of ``adapter``, which PEFT neither writes nor reads.

    Raises AdapterError if the file is damaged.
    """
    path = adapter.path / GENERATION_CONFIG
    if not path.is_file():
        return []
    recorded = read_json(path).get("eos_token_id")
    ids = [] if recorded is None else recorded if isinstance(recorded, list) else [recorded]
    if any(not isinstance(token, int) or token < 0 for token in ids):
        raise AdapterError(f"{path}: eos_token_id {recorded!r} is not a token id or a list of them; repair it")
    return list(ids)


def add_end_ids(model: PreTrainedModel, adapters: Iterable[ModelFolder]) -> None:
    """Add the recorded end-of-text tokens of ``adapters`` to those of the model's generation config."""
    config: Any = model.generation_config
    if config is None:
        return
    own = config.eos_token_id
    ids = [] if own is None else [own] if isinstance(own, int) else list(own)
    merged = list(dict.fromkeys([*ids, *(token for adapter in adapters for token in recorded_end_ids(adapter))]))
    if merged != ids:
        config.eos_token_id = merged if len(merged) > 1 else merged[0]
