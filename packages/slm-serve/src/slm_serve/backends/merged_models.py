"""An adapter merged into its base, as a folder of its own for whatever cannot load the adapter. Made once.

In the cache an entry is called by a digest of everything it is made of, so that an adapter that was trained again in
the same folder is merged again. Entries are whole or absent, and may be deleted at any time.
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
    MODEL_CONFIG,
    TOKENIZER_FILES,
    AdapterError,
    load,
    probe_ids,
    read_json,
    write_model,
)
from slm_adapters import LOGIT_TOLERANCE as TOLERANCE
from slm_adapters import MODEL_FILE_SUFFIXES as WRITTEN
from slm_adapters import PROBE_TEXT as PROBE
from slm_adapters import LogitDifference as Difference
from slm_adapters import ModelFolder as Folder
from slm_adapters import compare_logits as difference
from slm_adapters import probe_logits as logits
from slm_adapters import reload_model as reload
from slm_serve.errors import StartError

logger = logging.getLogger("slm_serve")
RECORD = "merged.json"  # in an entry: what it is made of, how it was checked, and a digest of each of its files
RECIPE = "1"  # another number where the same sources give another entry
CHUNK = 1 << 20
SMALL = (
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
class Merged:
    """A plain model in ``folder``. ``reused``: it was there."""

    folder: Path
    reused: bool


def default_cache() -> Path:
    """In the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slm" / "merged"


def merged_model(base: Folder, adapter: Folder | None, cache: Path) -> Merged:
    """``base`` with ``adapter`` merged into it in float32, or ``base`` alone, as transformers saves it, in float32.

    What is written is loaded again, and its logits are compared with those of the adapter on its base. Raises
    StartError where they differ by more than rounding explains, and where it cannot be written; AdapterError for an
    adapter that does not fit.
    """
    cache = cache.expanduser()
    entry = cache / key(base, adapter)
    if _is_whole(entry):
        return Merged(entry, reused=True)
    aside = cache / f".{entry.name}.{os.getpid()}"
    try:
        _make(aside, base, adapter)
        _put(aside, entry)
    except OSError as fault:
        raise StartError(f"cannot keep a merged model in {cache}: {fault}; give another --merged_path") from fault
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Merged(entry, reused=False)


def key(base: Folder, adapter: Folder | None) -> str:
    """By the contents of all files that go into it, not by their paths or dates."""
    found = hashlib.blake2b(f"{RECIPE}|{adapter is not None and adapter.four_bit}".encode(), digest_size=16)
    for folder in (base, adapter):
        for file in _sources(folder) if folder else ():
            found.update(f"{file.name}|{_digest(file)}|".encode())
        found.update(b"/")
    return found.hexdigest()


def _sources(folder: Folder) -> Iterable[Path]:
    return [*(folder.path / name for name in SMALL if (folder.path / name).is_file()), *folder.weights]


def _digest(file: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with file.open("rb") as read:
        while chunk := read.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()


def _is_whole(entry: Path) -> bool:
    """Whether all of it is as it was written."""
    if not entry.is_dir():
        return False
    try:
        files = read_json(entry / RECORD)["files"]
        whole = all((entry / name).is_file() and _digest(entry / name) == files[name] for name in files)
    except (AdapterError, KeyError, TypeError):
        whole = False
    if not whole:
        logger.warning("the merged model in %s is damaged; it is made again", entry)
    return whole


def _make(out: Path, base: Folder, adapter: Folder | None) -> None:
    path = adapter.path if adapter else None
    plain = load(base.path, path, dtype=torch.float32, device="cpu")
    ids = probe_ids(plain, PROBE)
    before = logits(plain.model, ids)
    del plain
    merged = load(base.path, path, merge=adapter is not None, dtype=torch.float32, device="cpu")
    write_model(merged, out)
    found = difference(before, logits(reload(out, merged.model), ids))
    _check(found, adapter or base)
    _record(out, base, adapter, found)


def _check(found: Difference, source: Folder) -> None:
    if not found.relative <= TOLERANCE[torch.float32]:
        raise StartError(
            f"merged, the adapter in {source.path} gives logits that differ by {found.relative:.2g} of the largest, "
            "more than rounding explains; serve it unmerged, by --backend engine"
        )


def _record(out: Path, base: Folder, adapter: Folder | None, found: Difference) -> None:
    files = {file.name: _digest(file) for file in sorted(out.iterdir()) if file.suffix in WRITTEN}
    record = {
        "base": str(base.path),
        "adapter": str(adapter.path) if adapter else None,
        "logits": asdict(found),
        "files": files,
    }
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _put(aside: Path, entry: Path) -> None:
    """Another process may have been faster: then its entry stays, for somebody may read it."""
    if entry.exists():
        if _is_whole(entry):
            return
        shutil.rmtree(entry)
    aside.rename(entry)
