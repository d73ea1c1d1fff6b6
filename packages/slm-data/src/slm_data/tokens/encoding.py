"""Encoding of documents to token ids in batches, in this process or in several."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from slm_data.errors import DataError
from slm_data.sources.documents import Documents

DOCUMENTS_PER_BATCH = 512
BATCHES_BEFORE_WORKERS = 40  # starting processes pays off only for a longer corpus
MAX_DEFAULT_WORKERS = 8


class EncodedBatch(NamedTuple):
    """Token ids of several documents, concatenated; the length of each; the UTF-8 bytes of all texts."""

    ids: npt.NDArray[np.uint32]  # [tokens]
    lengths: npt.NDArray[np.int64]  # [documents]
    text_bytes: int


@dataclass(frozen=True)
class TokenizerSettings:
    """A tokenizer as JSON, which can be hashed and sent to worker processes, and its end-of-text id."""

    json: str
    eos_id: int

    def load(self) -> Tokenizer:
        return Tokenizer.from_str(self.json)


def tokenizer_settings(tokenizer: PreTrainedTokenizerBase) -> TokenizerSettings:
    """Return the settings of a tokenizer. Raises DataError if it has no fast version or no end-of-text token."""
    if not tokenizer.is_fast:
        raise DataError(f"the tokenizer {tokenizer.name_or_path!r} has no fast version; choose a model that has one")
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token to separate documents with; "
            "set eos_token in its tokenizer_config.json"
        )
    # A copy: a tokenizer stores the truncation and padding of earlier calls, which must not apply here.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    return TokenizerSettings(backend.to_str(), int(tokenizer.eos_token_id))


def encode_in_batches(
    documents: Documents, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> Iterator[EncodedBatch]:
    """Encode ``batch_size`` documents at a time, in this process."""
    settings = tokenizer_settings(tokenizer)
    backend = settings.load()
    for batch in _batched(iter(documents), batch_size):
        yield _encode(backend, batch, settings.eos_id)


def encode_all(texts: Iterable[str], settings: TokenizerSettings, workers: int) -> Iterator[EncodedBatch]:
    """Encode texts in order. With more than one worker, the later part of a long corpus is encoded in processes."""
    batches = _batched(iter(texts), DOCUMENTS_PER_BATCH)
    backend = settings.load()
    for batch in islice(batches, BATCHES_BEFORE_WORKERS if workers > 1 else None):
        yield _encode(backend, batch, settings.eos_id)
    if workers > 1 and (first := next(batches, None)) is not None:
        yield from _encode_in_processes(chain([first], batches), settings, workers)


def worker_count(requested: int | None) -> int:
    """Return the number of processes to encode with; None selects one that suits the machine."""
    if requested is not None:
        return max(1, requested)
    # The tokenizer's own threads already keep two cores busy.
    return max(1, min(MAX_DEFAULT_WORKERS, (os.cpu_count() or 1) // 2))


def _encode(backend: Tokenizer, texts: list[str], eos_id: int) -> EncodedBatch:
    ids = [encoding.ids for encoding in backend.encode_batch_fast(texts)]
    for document in ids:
        if not document or document[-1] != eos_id:
            document.append(eos_id)
    lengths = np.fromiter((len(document) for document in ids), np.int64, len(ids))
    flat = np.fromiter((token for document in ids for token in document), np.uint32, int(lengths.sum()))
    return EncodedBatch(flat, lengths, sum(len(text.encode()) for text in texts))


def _encode_in_processes(
    batches: Iterable[list[str]], settings: TokenizerSettings, workers: int
) -> Iterator[EncodedBatch]:
    """Yield batches in order. At most two per worker are in flight, which bounds memory."""
    pending: deque[Future[EncodedBatch]] = deque()
    # spawn, not fork: the tokenizer's threads do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (settings,)) as pool:
        for batch in batches:
            pending.append(pool.submit(_encode_in_worker, batch))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


_worker_tokenizer: tuple[Tokenizer, int]


def _start_worker(settings: TokenizerSettings) -> None:
    global _worker_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per process: the processes already use all cores
    _worker_tokenizer = (settings.load(), settings.eos_id)


def _encode_in_worker(texts: list[str]) -> EncodedBatch:
    backend, eos_id = _worker_tokenizer
    return _encode(backend, texts, eos_id)


def _batched(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch
