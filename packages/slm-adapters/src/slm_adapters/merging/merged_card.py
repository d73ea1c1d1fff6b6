"""The model card of a merged model: that of its adapter's run, as far as it is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slm_adapters.base.base_lookup import PROVIDERS, find_base
from slm_adapters.base.model_folder import ModelFolder, read_model_folder
from slm_adapters.cards.adapter_card import adapter_card
from slm_adapters.cards.base_names import last_part
from slm_adapters.cards.model_card import ModelCard
from slm_adapters.cards.usage import Base, Usage
from slm_adapters.loading.load import Loaded

BEFORE_MERGING = "Figures and samples are those of the adapter before it was merged."


def merged_card(merged: Loaded) -> ModelCard | None:
    """Return the card of a merged model, or None if it is a base without an adapter."""
    if merged.adapter is None:
        return None
    adapter = read_model_folder(Path(merged.adapter))
    base = _loaded_base(merged, adapter)
    recorded = adapter_card(adapter, base)
    evaluation = f"{recorded.evaluation} {BEFORE_MERGING}".strip() if recorded.metrics or recorded.samples else ""
    return replace(
        recorded,
        title=f"{recorded.title}, merged",
        summary=f"{recorded.summary} It is merged into its base: a plain transformers model.",
        usage=Usage(prompt=recorded.usage.prompt, end_ids=recorded.usage.end_ids),
        base_id=base.name if base.kind == "hub" else None,
        relation="finetune",
        tags=(*recorded.tags, "merged"),
        evaluation=evaluation,
    )


def _loaded_base(merged: Loaded, adapter: ModelFolder) -> Base:
    """Return the base that was loaded, by a name without the folders above it."""
    if merged.base in PROVIDERS:
        return Base(merged.base, "built-in")
    location = find_base(merged.base)
    if location.is_on_hub:
        return Base(location.name, "hub", adapter.config.get("revision"))
    return Base(last_part(merged.base), "local")
