"""``tokenize``: a corpus as one memory-mapped file of token ids, written once and reused.

A document is ``tokenizer(text)`` followed by the end-of-text token. The ids of all documents are concatenated in
``tokens.bin``; ``lengths.npy`` contains the length of each. The folder is named by a fingerprint of the texts'
identity and the tokenizer, so a later run finds it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from slm_data.errors import DataError
from slm_data.sources.documents import Documents
from slm_data.tokens.encoding import EncodedBatch, TokenizerSettings, encode_all, tokenizer_settings, worker_count

STORE_FORMAT = 1  # part of the fingerprint: increase it when the files of a store change

# Errors that the user can resolve with another folder. numpy's own write errors have no errno, hence None.
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, None}
UNWRITABLE |= {getattr(errno, "EDQUOT", None)}  # not defined on Windows


@dataclass(frozen=True)
class TokenCounts:
    """The size of a corpus."""

    documents: int
    tokens: int
    text_bytes: int  # of all texts, in UTF-8
    start_tokens: int  # BOS tokens that the tokenizer adds itself; they are never predicted


@dataclass(frozen=True)
class TokenStore:
    """The token ids of a corpus, memory-mapped. ``reused``: whether they were in the cache already."""

    name: str
    tokens: npt.NDArray[np.unsignedinteger[Any]]  # [tokens]
    lengths: npt.NDArray[np.int64]  # [documents]
    counts: TokenCounts
    fingerprint: str
    reused: bool

    @property
    def tokens_per_byte(self) -> float:
        """Predicted tokens per byte of text; converts nats per token to nats per byte."""
        return (self.counts.tokens - self.counts.start_tokens) / max(self.counts.text_bytes, 1)


def token_cache_dir() -> Path:
    """Return the folder of all token stores: ``$SLM_CACHE``, or ``slm`` in the user's cache folder."""
    if configured := os.environ.get("SLM_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slm"


def tokenize(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> TokenStore:
    """Tokenise ``documents``, or open the store that an earlier call with the same texts and tokenizer wrote.

    Args:
        documents: The texts.
        tokenizer: A fast tokenizer with an end-of-text token.
        cache_dir: Replaces ``token_cache_dir()``.
        workers: Number of processes for a long corpus. Default: half the cores, at most 8.

    Raises:
        DataError: The tokenizer is unsuitable, the corpus contains no text, or the cache cannot be written.
    """
    settings = tokenizer_settings(tokenizer)
    name = _fingerprint(documents.identity, settings)
    folder = (cache_dir or token_cache_dir()) / "tokens" / name
    reused = folder.is_dir()
    if not reused:
        with _explain_write_errors(folder.parent):
            _build(folder, documents, settings, tokenizer.bos_token_id, worker_count(workers))
    return _open(folder, documents.name, name, reused)


def corpus_fingerprint(documents: Documents, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of the texts' identity and the tokenizer; the name of their store."""
    return _fingerprint(documents.identity, tokenizer_settings(tokenizer))


def _fingerprint(identity: str, settings: TokenizerSettings) -> str:
    parts = json.dumps([STORE_FORMAT, identity, settings.json, settings.eos_id])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


@contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        reason = error.strerror or error
        raise DataError(
            f"cannot write tokens to {folder}: {reason}; free some space there, or set SLM_CACHE to another folder"
        ) from error


def _build(folder: Path, documents: Documents, settings: TokenizerSettings, bos_id: int | None, workers: int) -> None:
    """Write to a temporary folder, then rename it: a store is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        # Ids may have gaps, so the highest id can exceed the size of the vocabulary.
        dtype = np.uint16 if max(settings.load().get_vocab().values()) < 1 << 16 else np.uint32
        counts = _write(temporary, encode_all(documents, settings, workers), dtype, bos_id)
        if counts.documents == 0:
            raise DataError(f"{documents.name} contains no text; choose another source")
        (temporary / "counts.json").write_text(json.dumps(asdict(counts)))
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # if it is one, another process wrote the same store first
            raise


def _write(
    folder: Path, batches: Iterable[EncodedBatch], dtype: type[np.unsignedinteger[Any]], bos_id: int | None
) -> TokenCounts:
    lengths, text_bytes, start_tokens = array("q"), 0, 0
    with (folder / "tokens.bin").open("wb") as out:
        for batch in batches:
            out.write(batch.ids.astype(dtype).data)
            first = np.cumsum(batch.lengths) - batch.lengths
            start_tokens += int((batch.ids[first] == bos_id).sum()) if bos_id is not None else 0
            lengths.extend(batch.lengths.tolist())
            text_bytes += batch.text_bytes
    all_lengths = np.frombuffer(lengths, dtype=np.int64) if lengths else np.zeros(0, np.int64)
    np.save(folder / "lengths.npy", all_lengths)
    (folder / "dtype").write_text(np.dtype(dtype).name)
    return TokenCounts(len(lengths), int(all_lengths.sum()), text_bytes, start_tokens)


def _open(folder: Path, name: str, fingerprint: str, reused: bool) -> TokenStore:
    dtype = (folder / "dtype").read_text()
    tokens = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")
    counts = TokenCounts(**json.loads((folder / "counts.json").read_text()))
    return TokenStore(name, tokens, np.load(folder / "lengths.npy", mmap_mode="r"), counts, fingerprint, reused)
