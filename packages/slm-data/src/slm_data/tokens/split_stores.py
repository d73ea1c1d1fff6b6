"""``tokenize_splits``: both parts of a corpus, read once if they come from one source."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from slm_data.examples.types import Example
from slm_data.sources.documents import Corpus
from slm_data.tokens.encoding import DOCUMENTS_PER_BATCH, BatchBuilder, encode_batches, worker_count
from slm_data.tokens.settings import EncodingOptions, encoding_settings
from slm_data.tokens.store import (
    TokenStore,
    corpus_fingerprint,
    explain_write_errors,
    new_store,
    token_cache_dir,
    tokenize,
)


def tokenize_splits(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    options: EncodingOptions | None = None,
    *,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> tuple[TokenStore, TokenStore]:
    """Tokenise the training and the validation part of ``corpus``.

    The stores are those of ``tokenize``. If both are missing and a part was held out, its source is read only once.
    Arguments and errors are those of ``tokenize``.
    """
    parts = (corpus.train, corpus.validation)
    cache = cache_dir or token_cache_dir()
    folders = [cache / "tokens" / corpus_fingerprint(part, tokenizer, options) for part in parts]
    is_new = corpus.read_both is not None and not any(folder.is_dir() for folder in folders)
    if corpus.read_both is not None and is_new:
        _build_both(corpus, corpus.read_both(), folders, tokenizer, options or EncodingOptions(), worker_count(workers))
    train, validation = (tokenize(part, tokenizer, options, cache_dir=cache, workers=workers) for part in parts)
    return (replace(train, reused=False), replace(validation, reused=False)) if is_new else (train, validation)


def _build_both(
    corpus: Corpus,
    examples: Iterable[tuple[Example, bool]],
    folders: list[Path],
    tokenizer: PreTrainedTokenizerBase,
    options: EncodingOptions,
    workers: int,
) -> None:
    settings = encoding_settings(tokenizer, options, data_format=corpus.train.data_format)
    bos_id = tokenizer.bos_token_id
    with (
        explain_write_errors(folders[0].parent),
        new_store(folders[0], corpus.train.name, settings, bos_id) as train,
        new_store(folders[1], corpus.validation.name, settings, bos_id) as validation,
    ):
        order = deque[bool]()
        for batch in encode_batches(_batches(examples, order), settings, workers):
            (validation if order.popleft() else train).add(batch)


def _batches(examples: Iterable[tuple[Example, bool]], order: deque[bool]) -> Iterator[list[Example]]:
    """Yield batches of one part each. Whether each is held out is appended to ``order``, before it is yielded."""
    builders = (BatchBuilder(DOCUMENTS_PER_BATCH), BatchBuilder(DOCUMENTS_PER_BATCH))
    for example, is_held_out in examples:
        if batch := builders[is_held_out].add(example):
            order.append(is_held_out)
            yield batch
    for is_held_out in (False, True):
        if rest := builders[is_held_out].take():
            order.append(is_held_out)
            yield rest
