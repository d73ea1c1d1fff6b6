"""The README.md that is published: the one in the folder or a generated one, with metadata that the hub accepts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard as HubCard
from yaml import YAMLError

from slm_adapters.base.base_lookup import PROVIDERS, full_name, recorded_base
from slm_adapters.base.log_filters import quiet_hub
from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.cards.adapter_card import adapter_card
from slm_adapters.cards.base_names import base_of, hub_id, last_part
from slm_adapters.cards.model_card import MARKER, TEXT_GENERATION, ModelCard
from slm_adapters.cards.readme_file import README, has_own_readme
from slm_adapters.cards.run_record import run_card
from slm_adapters.cards.usage import Base, Usage
from slm_adapters.errors import AdapterError
from slm_adapters.publishing.hub_library import can_be_repository
from slm_adapters.publishing.local_paths import is_local_path

LICENSE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as the hub writes them: apache-2.0, mit, llama3.2, other
_IDS = ("base_model", "datasets")  # metadata whose values are ids on the hub
_TEXTS = ("license", "library_name", "pipeline_tag", "base_model_relation", "model_name")


def published_base(adapter: ModelFolder, chosen: str | None) -> Base:
    """Return the base of ``adapter`` by a name with a meaning elsewhere: ``chosen``, if a folder is recorded.

    Raises AdapterError if the adapter records another base than ``chosen``.
    """
    recorded = base_of(adapter.run) or _base_in_config(adapter)
    if not chosen:
        return recorded
    if recorded.kind != "local" and recorded.name != chosen:
        raise AdapterError(f"the adapter was trained on {recorded.name}, not on {chosen}; leave --base out")
    return replace(recorded, name=chosen, kind="hub")


def _base_in_config(adapter: ModelFolder) -> Base:
    name = full_name(recorded_base(adapter) or "model")
    if name in PROVIDERS:
        return Base(name, "built-in")
    is_on_hub = hub_id(name) is not None and not Path(name).exists()
    return Base(name, "hub", adapter.config.get("revision")) if is_on_hub else Base(last_part(name), "local")


def readme(folder: Path, model: ModelFolder | None, base: Base | None, metadata: Mapping[str, str]) -> str:
    """Return the content of the README.md to publish.

    The README.md in ``folder`` is taken as it is, unless PEFT wrote it. A generated one is written anew where another
    base makes a difference.

    Args:
        folder: The folder.
        model: Its model or adapter; None if it has GGUF files only.
        base: The base of an adapter.
        metadata: Entries to set: ``base_model`` and ``license``.

    Raises:
        AdapterError: If the metadata is not valid, or names a path of this machine.
    """
    path = folder / README
    content = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    is_current = MARKER in content and not (base and "base_model" in metadata)
    content = content if is_current or has_own_readme(folder) else _generated(folder, model, base)
    card = _parsed(content)
    _set_metadata(card, metadata, "adapter" if base else "finetune")
    for problem in _metadata_problems(card.data.to_dict()):
        raise AdapterError(f"{path}: {problem}")
    return str(card) if metadata else content


def _set_metadata(card: HubCard, metadata: Mapping[str, str], relation: str) -> None:
    if "base_model" in metadata and not card.data.get("base_model_relation"):
        card.data["base_model_relation"] = relation
    for name, value in metadata.items():
        card.data[name] = value


def _generated(folder: Path, model: ModelFolder | None, base: Base | None) -> str:
    if model and base:
        return adapter_card(model, base).render()
    if model and model.run:
        return run_card(model.run).render()
    if model:
        kind = str(model.config.get("model_type", "causal"))
        return ModelCard(folder.resolve().name, f"A language model ({kind}).", Usage(), tags=("slm",)).render()
    data = f"pipeline_tag: {TEXT_GENERATION}\ntags:\n- slm\n- gguf"
    return f"---\n{data}\n---\n\n{MARKER}\n\n# {folder.resolve().name}\n\nA model in GGUF, for llama.cpp and Ollama.\n"


def _parsed(content: str) -> HubCard:
    try:
        with quiet_hub():
            return HubCard(content)
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"the metadata at the top of {README} is not valid ({reason}); correct it") from error


def _metadata_problems(data: dict[str, Any]) -> Iterator[str]:
    """Yield what the hub refuses in metadata, and paths, each with its remedy. The hub checks the rest."""
    for name in _IDS:
        for value in _as_list(data.get(name)):
            if reason := _id_fault(value):
                yield f"its {name} {value!r} {reason}; give an id on the hub, or leave {name} out"
    for name in _TEXTS:
        if (value := data.get(name)) is not None and not isinstance(value, str):
            yield f"its {name} {value!r} must be a text; correct it"
    for value in _as_list(data.get("license")):
        if isinstance(value, str) and not LICENSE_ID.fullmatch(value):
            yield f"its license {value!r} is not an identifier of the hub; write one such as apache-2.0, or other"
    for value in _as_list(data.get("tags")):
        if not isinstance(value, str) or is_local_path(value):
            yield f"its tag {value!r} must be a word; correct it"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _id_fault(value: Any) -> str | None:
    if not isinstance(value, str):
        return "is not a text"
    if is_local_path(value):
        return "is a path on this machine"
    return None if can_be_repository(value) else "cannot be an id"
