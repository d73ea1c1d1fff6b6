"""The model card of an adapter's folder over a given base: from its run's record, or from its configuration alone."""

from __future__ import annotations

from typing import Any

from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.cards.base_names import base_words
from slm_adapters.cards.markdown import escape
from slm_adapters.cards.model_card import ModelCard
from slm_adapters.cards.run_record import METHODS, run_card
from slm_adapters.cards.usage import Base, Usage


def adapter_card(adapter: ModelFolder, base: Base) -> ModelCard:
    """Return the card of ``adapter`` over ``base``, with what its run.json records, if it has one."""
    if adapter.run:
        hub: dict[str, Any] = {"base": base.name} if base.kind == "hub" else {}
        dataset = adapter.run.get("hub")
        record = {"mode": "adapter"} | adapter.run | {"base": base.name}
        record["hub"] = (dataset if isinstance(dataset, dict) else {}) | hub
        return run_card(record)
    peft_type = str(adapter.config.get("peft_type", "adapter")).lower()
    method = METHODS.get(peft_type, peft_type)
    is_on_hub = base.kind == "hub"
    return ModelCard(
        title=f"{method} on {base_words(base, linked=False)}",
        summary=f"An adapter ({escape(method)}) for {base_words(base)}.",
        usage=Usage(base=base, is_butterfly=peft_type == "butterfly"),
        base_id=base.name if is_on_hub else None,
        relation="adapter",
        tags=("slm", peft_type),
    )
