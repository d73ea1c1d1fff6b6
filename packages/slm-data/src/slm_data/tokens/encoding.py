"""Encoding of documents to token ids in batches, in this process or in several."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context

from slm_data.examples.types import Example, length_of_example
from slm_data.sources.documents import Documents
from slm_data.tokens.encoder import EncodedBatch, Encoder, join_batches
from slm_data.tokens.settings import EncodingSettings

DOCUMENTS_PER_BATCH = 512
CHARACTERS_PER_BATCH = 1 << 20  # a batch of long documents ends earlier: a tokenizer needs 30 bytes per character
BATCHES_BEFORE_WORKERS = 40  # starting processes pays off only for a longer corpus
MAX_DEFAULT_WORKERS = 8


class BatchBuilder:
    """Collects examples until they are worth a batch: ``size`` of them, or fewer that are long."""

    def __init__(self, size: int) -> None:
        self._size, self._characters = size, 0
        self._examples: list[Example] = []

    def add(self, example: Example) -> list[Example]:
        """Add an example; return the batch that it completes, or an empty list."""
        self._examples.append(example)
        self._characters += length_of_example(example)
        is_full = len(self._examples) >= self._size or self._characters >= CHARACTERS_PER_BATCH
        return self.take() if is_full else []

    def take(self) -> list[Example]:
        """Return the examples since the last batch."""
        batch, self._examples, self._characters = self._examples, [], 0
        return batch


def encode_in_batches(documents: Documents, settings: EncodingSettings, batch_size: int) -> Iterator[EncodedBatch]:
    """Encode ``batch_size`` documents at a time, in this process."""
    encode, examples = Encoder(settings), iter(documents)
    while batch := list(islice(examples, batch_size)):
        # In parts if they are long, for the tokenizer's need of memory.
        yield join_batches([encode(part) for part in _batched(batch, batch_size)])


def encode_all(examples: Iterable[Example], settings: EncodingSettings, workers: int) -> Iterator[EncodedBatch]:
    """Encode examples in order. With more than one worker, the later part of a long corpus is encoded in processes."""
    return encode_batches(_batched(examples, DOCUMENTS_PER_BATCH), settings, workers)


def encode_batches(
    batches: Iterator[list[Example]], settings: EncodingSettings, workers: int
) -> Iterator[EncodedBatch]:
    """Encode batches of examples in order, as ``encode_all`` does."""
    encode = Encoder(settings)
    for batch in islice(batches, BATCHES_BEFORE_WORKERS if workers > 1 else None):
        yield encode(batch)
    if workers > 1 and (first := next(batches, None)) is not None:
        yield from _encode_in_processes(chain([first], batches), settings, workers)


def worker_count(requested: int | None) -> int:
    """Return the number of processes to encode with; None selects one that suits the machine."""
    if requested is not None:
        return max(1, requested)
    # The tokenizer's own threads already keep two cores busy.
    return max(1, min(MAX_DEFAULT_WORKERS, (os.cpu_count() or 1) // 2))


def _encode_in_processes(
    batches: Iterable[list[Example]], settings: EncodingSettings, workers: int
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


_worker_encoder: Encoder


def _start_worker(settings: EncodingSettings) -> None:
    global _worker_encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread per process: the processes already use all cores
    _worker_encoder = Encoder(settings)


def _encode_in_worker(examples: list[Example]) -> EncodedBatch:
    return _worker_encoder(examples)


def _batched(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    builder = BatchBuilder(size)
    yield from filter(None, map(builder.add, examples))
    if rest := builder.take():
        yield rest
