"""The files of a folder that are published: an explicit list. Checkpoints, logs, pickles and caches are never in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm_adapters.base.model_folder import (
    ADAPTER_CONFIG,
    MODEL_CONFIG,
    RUN_RECORD,
    TOKENIZER_FILES,
    ModelFolder,
    read_json,
    read_model_folder,
)
from slm_adapters.cards.readme_file import README
from slm_adapters.cards.usage import Base
from slm_adapters.publishing.card import published_base, readme
from slm_adapters.publishing.local_paths import published_record, without_local_names

TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS_INDEX = "model.safetensors.index.json"
MODELFILE = "Modelfile"
_UNCHANGED = (
    *TOKENIZER_FILES,
    "merges.txt",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "metrics.jsonl",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
)
_TEMPLATES = "additional_chat_templates/*.jinja"  # where transformers saves further templates


@dataclass(frozen=True)
class PublishedFile:
    """A file by its name in the repository.

    Attributes:
        name: The name.
        source: A file of the folder, or content that differs from it.
        change: In what it differs.
    """

    name: str
    source: Path | bytes
    change: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class Publication:
    """What is published of a folder.

    Attributes:
        files: The files, by name.
        left_out: Names of what else is in the folder.
        base: The base of an adapter; None for a whole model.
    """

    files: tuple[PublishedFile, ...]
    left_out: tuple[str, ...]
    base: Base | None


def read_publication(folder: Path, base: str | None = None, license_id: str | None = None) -> Publication:
    """Return what is published of a run folder, an adapter, a model or a folder with GGUF files.

    Args:
        folder: The folder.
        base: The id of the base on the hub, where the folder records none.
        license_id: A licence for the metadata of the model card.

    Raises:
        AdapterError: For a folder with none of these, damaged or pickled weights, and a model card that the hub
            would refuse.
    """
    folder = folder.expanduser()
    gguf = sorted(folder.glob("*.gguf"))
    has_config = any((folder / name).is_file() for name in (MODEL_CONFIG, ADAPTER_CONFIG))
    model = None if gguf and not has_config else read_model_folder(folder)
    adapter_base = published_base(model, base) if model and model.holds_adapter else None
    files = list(_model_files(model, adapter_base) if model else _gguf_files(folder, gguf))
    metadata = {name: value for name, value in (("base_model", base), ("license", license_id)) if value}
    files.append(_readme_file(folder / README, readme(folder, model, adapter_base, metadata)))
    published = {file.name.partition("/")[0] for file in files}
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in published)
    return Publication(tuple(sorted(files, key=lambda file: file.name)), tuple(left_out), adapter_base)


def published_files(folder: Path) -> tuple[PublishedFile, ...]:
    """Return the files of ``read_publication(folder)``, sorted by name. Raises AdapterError as it does."""
    return read_publication(folder).files


def _model_files(model: ModelFolder, base: Base | None) -> Iterator[PublishedFile]:
    for path in (*model.weights, *_existing(model.path, (*_UNCHANGED, WEIGHTS_INDEX)), *model.path.glob(_TEMPLATES)):
        if path.name != TOKENIZER_CONFIG:
            yield PublishedFile(path.relative_to(model.path).as_posix(), path)
    if base:
        recorded = None if base.kind == "local" else base.name
        yield _json_file(model.path / ADAPTER_CONFIG, model.config | {"base_model_name_or_path": recorded})
    else:
        yield _json_file(model.path / MODEL_CONFIG, without_local_names(model.config))
    for path in _existing(model.path, (TOKENIZER_CONFIG,)):
        yield _json_file(path, without_local_names(read_json(path)))
    if model.run:
        yield _json_file(model.path / RUN_RECORD, published_record(model.run, base))


def _gguf_files(folder: Path, gguf: list[Path]) -> Iterator[PublishedFile]:
    for path in (*gguf, *_existing(folder, (MODELFILE, "LICENSE", "LICENSE.md", "LICENSE.txt"))):
        yield PublishedFile(path.name, path)


def _existing(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _readme_file(path: Path, content: str) -> PublishedFile:
    if path.is_file() and path.read_bytes() == content.encode():
        return PublishedFile(README, path)
    return PublishedFile(README, content.encode(), "with the given metadata" if path.is_file() else "generated")


def _json_file(path: Path, content: dict[str, Any]) -> PublishedFile:
    if path.is_file() and read_json(path) == content:
        return PublishedFile(path.name, path)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return PublishedFile(path.name, text.encode(), "without paths of this machine")
