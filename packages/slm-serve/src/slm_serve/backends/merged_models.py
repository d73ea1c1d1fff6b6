"""A cache of models with an adapter merged into the base, for backends that cannot load the adapter.

The name of an entry is a digest of the contents of its source files, so an adapter that was retrained in the same
folder is merged again. An entry is complete or absent, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from slm_adapters import (
    ADAPTER_CONFIG,
    LOGIT_TOLERANCE,
    MODEL_CONFIG,
    MODEL_FILE_SUFFIXES,
    PROBE_TEXT,
    TOKENIZER_FILES,
    AdapterError,
    LogitDifference,
    ModelFolder,
    compare_logits,
    load,
    probe_ids,
    probe_logits,
    read_json,
    reload_model,
    write_model,
)
from slm_data import token_cache_dir
from slm_serve.errors import StartError

logger = logging.getLogger("slm_serve")
RECORD_FILE = "merged.json"  # in each entry: its sources, the result of the check, and a digest of each file
FORMAT_VERSION = "1"  # part of the key; must change whenever the same sources would give a different entry
READ_SIZE = 1 << 20  # bytes read at once while hashing
SOURCE_FILES = (
    MODEL_CONFIG,
    ADAPTER_CONFIG,
    *TOKENIZER_FILES,
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class MergedModel:
    """A model in ``folder``; ``reused`` if it was already in the cache."""

    folder: Path
    reused: bool


def default_cache_dir() -> Path:
    """Return ``merged/`` in slm's cache folder: ``$SLM_CACHE``, else the user's cache folder."""
    return token_cache_dir() / "merged"


def merged_model(base: ModelFolder, adapter: ModelFolder | None, cache_dir: Path) -> MergedModel:
    """Merge ``adapter`` into ``base`` in float32 and save the model, or return the entry of the cache.

    Without an adapter the base alone is saved in float32. The saved model is loaded again, and its logits are compared
    with those of the adapter on its base.

    Raises:
        StartError: the logits differ by more than rounding errors, or the cache cannot be written.
        AdapterError: the adapter does not fit the base.
    """
    cache_dir = cache_dir.expanduser()
    entry = cache_dir / cache_key(base, adapter)
    if _is_intact(entry):
        return MergedModel(entry, reused=True)
    unfinished = cache_dir / f".{entry.name}.{os.getpid()}"
    try:
        _build(unfinished, base, adapter)
        _publish(unfinished, entry)
    except OSError as error:
        raise StartError(f"cannot write a merged model to {cache_dir}: {error}; give another --merged_path") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return MergedModel(entry, reused=False)


def cache_key(base: ModelFolder, adapter: ModelFolder | None) -> str:
    """Return a digest of the contents of all source files; their paths and dates do not matter."""
    four_bit = adapter is not None and adapter.four_bit
    digest = hashlib.blake2b(f"{FORMAT_VERSION}|{four_bit}".encode(), digest_size=16)
    for folder in (base, adapter):
        for file in _source_files(folder) if folder else ():
            digest.update(f"{file.name}|{_file_digest(file)}|".encode())
        digest.update(b"/")
    return digest.hexdigest()


def _source_files(folder: ModelFolder) -> Iterable[Path]:
    return [*(folder.path / name for name in SOURCE_FILES if (folder.path / name).is_file()), *folder.weights]


def _file_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(READ_SIZE):
            digest.update(chunk)
    return digest.hexdigest()


def _is_intact(entry: Path) -> bool:
    """Whether ``entry`` exists and all its files are as they were written."""
    if not entry.is_dir():
        return False
    try:
        digests = read_json(entry / RECORD_FILE)["files"]
        intact = all((entry / name).is_file() and _file_digest(entry / name) == digests[name] for name in digests)
    except (AdapterError, KeyError, TypeError):
        intact = False
    if not intact:
        logger.warning("the merged model in %s is damaged and will be rebuilt", entry)
    return intact


def _build(folder: Path, base: ModelFolder, adapter: ModelFolder | None) -> None:
    adapter_path = adapter.path if adapter else None
    unmerged = load(base.path, adapter_path, dtype=torch.float32, device="cpu")
    ids = probe_ids(unmerged, PROBE_TEXT)
    expected = probe_logits(unmerged.model, ids)
    del unmerged  # frees its memory before a second copy of the weights is loaded
    merged = load(base.path, adapter_path, merge=adapter is not None, dtype=torch.float32, device="cpu")
    write_model(merged, folder)
    difference = compare_logits(expected, probe_logits(reload_model(folder, merged.model), ids))
    _check_logits(difference, adapter or base)
    _write_record(folder, base, adapter, difference)


def _check_logits(difference: LogitDifference, source: ModelFolder) -> None:
    if not difference.relative <= LOGIT_TOLERANCE[torch.float32]:  # also true for NaN
        raise StartError(
            f"after merging, the logits of the adapter in {source.path} differ by {difference.relative:.2g} of the "
            "largest logit, more than rounding errors explain; serve it unmerged with --backend engine"
        )


def _write_record(folder: Path, base: ModelFolder, adapter: ModelFolder | None, difference: LogitDifference) -> None:
    files = {file.name: _file_digest(file) for file in sorted(folder.iterdir()) if file.suffix in MODEL_FILE_SUFFIXES}
    record = {
        "base": str(base.path),
        "adapter": str(adapter.path) if adapter else None,
        "logits": asdict(difference),
        "files": files,
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _publish(unfinished: Path, entry: Path) -> None:
    """Rename the folder to its final name, unless another process has published the entry, which may be in use."""
    if entry.exists():
        if _is_intact(entry):
            return
        shutil.rmtree(entry)
    unfinished.rename(entry)
