"""Texts to tokens: one flat file of token ids a corpus, memory-mapped, made once.

A document is ``tokenizer(text)`` closed by the end-of-text token. The ids of all documents lie
one after another in ``tokens.bin`` and ``lengths.npy`` says how long each is. The folder is named
by a fingerprint of the texts' identity and of the tokenizer: a second run finds it there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from slm_data.errors import DataError
from slm_data.sources import Documents

FORMAT = 1
BATCH = 512  # documents handed to the tokenizer at once
BATCHES_BEFORE_WORKERS = 40  # starting processes pays only for a corpus longer than this

# What keeps a folder from being written. numpy's own errors of writing have no number.
UNWRITABLE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, None}
UNWRITABLE |= {getattr(errno, "EDQUOT", None)}  # Windows knows no quota

Encoded = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], int]


@dataclass(frozen=True)
class TokenCounts:
    """What a corpus holds. ``text_bytes`` is the length of all texts in UTF-8."""

    documents: int
    tokens: int
    text_bytes: int
    start_tokens: int  # tokens that open documents (a tokenizer's own BOS): read, never predicted


@dataclass(frozen=True)
class TokenStore:
    """The token ids of a corpus: ``tokens`` flat ``[tokens]``, ``lengths`` ``[documents]``."""

    name: str
    tokens: npt.NDArray[np.unsignedinteger[Any]]
    lengths: npt.NDArray[np.int64]
    counts: TokenCounts
    fingerprint: str
    reused: bool

    @property
    def tokens_per_byte(self) -> float:
        """Predicted tokens for a byte of text: turns nats a token into bits a byte."""
        return (self.counts.tokens - self.counts.start_tokens) / max(self.counts.text_bytes, 1)


def default_cache_dir() -> Path:
    """Where token files are kept: ``$SLM_CACHE``, or the user's cache folder."""
    if given := os.environ.get("SLM_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slm"


def tokenize(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> TokenStore:
    """Tokenise ``documents`` once; a later call with the same texts and tokenizer reads the file.

    ``workers``: processes to tokenise with; None starts as many as pay for a long corpus.
    Raises DataError for a tokenizer without an end-of-text token, for a corpus without text, and for
    a cache that cannot be written.
    """
    backend, end = _backend(tokenizer)
    name = _fingerprint(documents.identity, backend, end)
    folder = (cache_dir or default_cache_dir()) / "tokens" / name
    reused = folder.is_dir()
    if not reused:
        with _explained(folder.parent):
            _build(folder, documents, backend, end, tokenizer.bos_token_id, _worker_count(workers))
    return _open(folder, documents.name, name, reused)


def fingerprint(documents: Documents, tokenizer: PreTrainedTokenizerBase) -> str:
    """Changes with the texts' identity and with the tokenizer, and with nothing else."""
    return _fingerprint(documents.identity, *_backend(tokenizer))


def encode_in_batches(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, size: int
) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]]:
    """``size`` documents at a time: their token ids end to end, and the length of each."""
    backend, end = _backend(tokenizer)
    encoder = Tokenizer.from_str(backend)
    for batch in _batched(iter(documents), size):
        ids, lengths, _ = _encode(encoder, batch, end)
        yield ids, lengths


def _backend(tokenizer: PreTrainedTokenizerBase) -> tuple[str, int]:
    """The tokenizer as its own JSON, which worker processes and fingerprints need, and EOS."""
    if not tokenizer.is_fast:
        raise DataError(f"the tokenizer {tokenizer.name_or_path!r} has no fast version; pick a model that has one")
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token to part documents with; "
            "set eos_token in its tokenizer_config.json"
        )
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend.to_str(), int(tokenizer.eos_token_id)


def _fingerprint(identity: str, backend: str, end: int) -> str:
    parts = json.dumps([FORMAT, identity, backend, end])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _worker_count(workers: int | None) -> int:
    if workers is not None:
        return max(1, workers)
    # Two cores are kept busy by the tokenizer's own threads; beyond that processes win.
    return max(1, min(8, (os.cpu_count() or 1) // 2))


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        reason = error.strerror or error
        message = f"cannot keep tokens in {folder}: {reason}; make room there, or set SLM_CACHE to another folder"
        raise DataError(message) from error


def _build(folder: Path, documents: Documents, backend: str, end: int, start: int | None, workers: int) -> None:
    """Write aside, then rename: a store is complete or absent."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        counts = _write(aside, _encode_all(documents, backend, end, workers), Tokenizer.from_str(backend), start)
        if counts.documents == 0:
            raise DataError(f"{documents.name} holds no text")
        (aside / "counts.json").write_text(json.dumps(asdict(counts)))
        _publish(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _publish(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process made the same store meanwhile: that one serves
            raise


def _write(aside: Path, encoded: Iterable[Encoded], backend: Tokenizer, start: int | None) -> TokenCounts:
    dtype = np.uint16 if max(backend.get_vocab().values()) < 1 << 16 else np.uint32  # ids may have gaps
    lengths, text_bytes, starts = array("q"), 0, 0
    with (aside / "tokens.bin").open("wb") as out:
        for ids, batch_lengths, batch_bytes in encoded:
            out.write(ids.astype(dtype).data)
            first = np.cumsum(batch_lengths) - batch_lengths
            starts += int((ids[first] == start).sum()) if start is not None else 0
            lengths.extend(batch_lengths.tolist())
            text_bytes += batch_bytes
    all_lengths = np.frombuffer(lengths, dtype=np.int64) if lengths else np.zeros(0, np.int64)
    np.save(aside / "lengths.npy", all_lengths)
    (aside / "dtype").write_text(np.dtype(dtype).name)
    return TokenCounts(len(lengths), int(all_lengths.sum()), text_bytes, starts)


def _open(folder: Path, name: str, fingerprint: str, reused: bool) -> TokenStore:
    dtype = (folder / "dtype").read_text()
    tokens = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")
    counts = TokenCounts(**json.loads((folder / "counts.json").read_text()))
    return TokenStore(name, tokens, np.load(folder / "lengths.npy", mmap_mode="r"), counts, fingerprint, reused)


def _encode_all(texts: Iterable[str], backend: str, end: int, workers: int) -> Iterator[Encoded]:
    batches = _batched(iter(texts), BATCH)
    tokenizer = Tokenizer.from_str(backend)
    for batch in islice(batches, BATCHES_BEFORE_WORKERS if workers > 1 else None):
        yield _encode(tokenizer, batch, end)
    if workers > 1 and (first := next(batches, None)) is not None:
        yield from _encode_in_processes(first, batches, backend, end, workers)


def _encode(tokenizer: Tokenizer, texts: list[str], end: int) -> Encoded:
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    for document in ids:
        if not document or document[-1] != end:
            document.append(end)
    lengths = np.fromiter((len(document) for document in ids), np.int64, len(ids))
    flat = np.fromiter((token for document in ids for token in document), np.uint32, int(lengths.sum()))
    return flat, lengths, sum(len(text.encode()) for text in texts)


def _encode_in_processes(
    first: list[str], rest: Iterator[list[str]], backend: str, end: int, workers: int
) -> Iterator[Encoded]:
    """Batches in their order, at most two a worker under way, so memory stays bounded."""
    pending: deque[Future[Encoded]] = deque()
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (backend, end)) as pool:
        for batch in _chain(first, rest):
            pending.append(pool.submit(_encode_in_worker, batch))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _chain(first: list[str], rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    yield from rest


_worker: tuple[Tokenizer, int]


def _start_worker(backend: str, end: int) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker = (Tokenizer.from_str(backend), end)


def _encode_in_worker(texts: list[str]) -> Encoded:
    return _encode(_worker[0], texts, _worker[1])


def _batched(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch
