"""``tokenize``: a corpus as one memory-mapped file of token ids, written once and reused.

A text is ``tokenizer(text)`` followed by the end-of-text token; conversations and pairs are rendered first. The ids of
all documents are concatenated in ``tokens.bin``; ``lengths.npy`` contains the length of each, and ``scored.bin`` the
mask of the tokens that have a loss, if not all have. The folder is named by a fingerprint of the texts' identity and
the encoding, so a later run finds it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from slm_data.errors import DataError
from slm_data.sources.documents import Documents
from slm_data.tokens.encoder import EncodedBatch
from slm_data.tokens.encoding import encode_all, worker_count
from slm_data.tokens.settings import EncodingOptions, EncodingSettings, encoding_settings

STORE_FORMAT = 2  # part of the fingerprint: increase it when the files of a store change

MASK_FILE = "scored.bin"  # one byte per token

# Errors that the user can resolve with another folder. numpy's own write errors have no errno, hence None.
UNWRITABLE = {errno.ENOSPC, errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, None}
UNWRITABLE |= {getattr(errno, "EDQUOT", None)}  # not defined on Windows


@dataclass(frozen=True)
class TokenCounts:
    """The size of a corpus."""

    documents: int
    tokens: int
    text_bytes: int  # of the texts that have a loss, in UTF-8
    start_tokens: int  # BOS tokens that the tokenizer adds itself; they are never predicted
    scored_tokens: int | None = None  # tokens that have a loss; None if all have
    unscored_documents: int = 0  # left out, because nothing in them has a loss
    special_texts: int = 0  # special tokens written in the texts, which were read as plain text


@dataclass(frozen=True)
class TokenStore:
    """The token ids of a corpus, memory-mapped. ``reused``: whether they were in the cache already."""

    name: str
    tokens: npt.NDArray[np.unsignedinteger[Any]]  # [tokens]
    lengths: npt.NDArray[np.int64]  # [documents]
    counts: TokenCounts
    fingerprint: str
    reused: bool
    scored: npt.NDArray[np.bool_] | None = None  # [tokens], whether a token has a loss; None if all have

    @property
    def tokens_per_byte(self) -> float:
        """Predicted tokens per byte of text; converts nats per token to nats per byte."""
        counts = self.counts
        predicted = counts.tokens - counts.start_tokens if counts.scored_tokens is None else counts.scored_tokens
        return predicted / max(counts.text_bytes, 1)


def token_cache_dir() -> Path:
    """Return the folder of all token stores: ``$SLM_CACHE``, or ``slm`` in the user's cache folder."""
    if configured := os.environ.get("SLM_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "slm"


def tokenize(
    documents: Documents,
    tokenizer: PreTrainedTokenizerBase,
    options: EncodingOptions | None = None,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> TokenStore:
    """Tokenise ``documents``, or open the store that an earlier call with the same texts and encoding wrote.

    Args:
        documents: The texts, conversations or pairs.
        tokenizer: A fast tokenizer with an end-of-text token.
        options: The chat template, and what has a loss.
        cache_dir: Replaces ``token_cache_dir()``.
        workers: Number of processes for a long corpus. Default: half the cores, at most 8.

    Raises:
        DataError: The tokenizer is unsuitable, the corpus contains no text or none with a loss, or the cache cannot be
            written.
    """
    settings = encoding_settings(tokenizer, options or EncodingOptions(), data_format=documents.data_format)
    name = _fingerprint(documents.identity, settings)
    folder = (cache_dir or token_cache_dir()) / "tokens" / name
    reused = folder.is_dir()
    if not reused:
        with (
            explain_write_errors(folder.parent),
            new_store(folder, documents.name, settings, tokenizer.bos_token_id) as store,
        ):
            for batch in encode_all(documents, settings, worker_count(workers)):
                store.add(batch)
    return _open(folder, documents.name, name, reused)


def corpus_fingerprint(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, options: EncodingOptions | None = None
) -> str:
    """Return a hash of the texts' identity and the encoding; the name of their store."""
    settings = encoding_settings(tokenizer, options or EncodingOptions(), data_format=documents.data_format)
    return _fingerprint(documents.identity, settings)


def _fingerprint(identity: str, settings: EncodingSettings) -> str:
    parts = json.dumps([STORE_FORMAT, identity, *settings.fingerprint_parts()])
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        reason = error.strerror or error
        raise DataError(
            f"cannot write tokens to {folder}: {reason}; free some space there, or set SLM_CACHE to another folder"
        ) from error


@contextmanager
def new_store(folder: Path, name: str, settings: EncodingSettings, bos_id: int | None) -> Iterator[StoreWriter]:
    """Write to a temporary folder, then rename it: a store is complete or absent.

    Args:
        folder: Where the store will be.
        name: The name of the corpus, for error messages.
        settings: The encoding.
        bos_id: The token that a tokenizer may add at the start of a document.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        with StoreWriter(temporary, settings, bos_id) as writer:
            yield writer
        counts = writer.finish()
        _check_counts(counts, name)
        (temporary / "counts.json").write_text(json.dumps(asdict(counts)))
        _publish(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_counts(counts: TokenCounts, name: str) -> None:
    if counts.documents == 0 and counts.unscored_documents:
        raise DataError(
            f"none of the {counts.unscored_documents:,} examples in {name} has an answer to learn from (text of the "
            "assistant, or a completion); check the roles and columns, or give --loss_on all"
        )
    if counts.documents == 0:
        raise DataError(f"{name} contains no text; choose another source")


def _publish(temporary: Path, folder: Path) -> None:
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # if it is one, another process wrote the same store first
            raise


class StoreWriter:
    """Writes the files of a store, batch by batch."""

    def __init__(self, folder: Path, settings: EncodingSettings, bos_id: int | None) -> None:
        self._folder, self._bos_id, self._masks = folder, bos_id, settings.masks
        # Ids may have gaps, so the highest id can exceed the size of the vocabulary.
        highest = max(Tokenizer.from_str(settings.tokenizer).get_vocab().values())
        self._dtype = np.dtype(np.uint16 if highest < 1 << 16 else np.uint32)
        self._lengths = array("q")
        self._text_bytes = self._start_tokens = self._scored_tokens = self._unscored = self._special_texts = 0

    def __enter__(self) -> StoreWriter:
        with ExitStack() as files:
            self._tokens = files.enter_context((self._folder / "tokens.bin").open("wb"))
            self._scored = files.enter_context((self._folder / MASK_FILE).open("wb")) if self._masks else None
            self._files = files.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, batch: EncodedBatch) -> None:
        """Append the documents of a batch."""
        self._tokens.write(batch.ids.astype(self._dtype).data)
        if self._scored and batch.scored is not None:
            self._scored.write(batch.scored.data)
            self._scored_tokens += int(batch.scored.sum())
        first = np.cumsum(batch.lengths) - batch.lengths
        self._start_tokens += int((batch.ids[first] == self._bos_id).sum()) if self._bos_id is not None else 0
        self._lengths.extend(batch.lengths.tolist())
        self._text_bytes += batch.text_bytes
        self._unscored += batch.unscored
        self._special_texts += batch.special_texts

    def finish(self) -> TokenCounts:
        """Write the lengths of the documents, and return the size of the corpus."""
        lengths = np.frombuffer(self._lengths, dtype=np.int64) if self._lengths else np.zeros(0, np.int64)
        np.save(self._folder / "lengths.npy", lengths)
        (self._folder / "dtype").write_text(self._dtype.name)
        scored = self._scored_tokens if self._masks else None
        return TokenCounts(
            len(lengths),
            int(lengths.sum()),
            self._text_bytes,
            self._start_tokens,
            scored,
            self._unscored,
            self._special_texts,
        )


def _open(folder: Path, name: str, fingerprint: str, reused: bool) -> TokenStore:
    dtype = (folder / "dtype").read_text()
    tokens = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")
    mask = folder / MASK_FILE
    scored = np.memmap(mask, dtype=np.bool_, mode="r") if mask.exists() else None
    counts = TokenCounts(**json.loads((folder / "counts.json").read_text()))
    return TokenStore(name, tokens, np.load(folder / "lengths.npy", mmap_mode="r"), counts, fingerprint, reused, scored)
