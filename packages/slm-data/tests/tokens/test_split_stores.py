"""Both parts of a corpus are tokenised in one reading of its source, to the stores that ``tokenize`` writes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from slm_data.errors import DataError
from slm_data.sources import reading
from slm_data.sources.content import SourceFile
from slm_data.sources.corpus import load_corpus
from slm_data.sources.documents import Corpus
from slm_data.sources.options import SourceOptions
from slm_data.sources.readers.settings import ReaderSettings
from slm_data.sources.record import Record
from slm_data.tokens import encoding, split_stores
from slm_data.tokens.split_stores import tokenize_splits
from slm_data.tokens.store import TokenStore, tokenize

ROWS = 100


@pytest.fixture(params=["text", "messages"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    texts = [f"The hen said {number}." if number % 7 else " " for number in range(ROWS)]
    if request.param == "text":
        rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    else:
        roles = ("user", "assistant")
        rows = [{"messages": [{"role": role, "content": text} for role in roles]} for text in texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that each reading of a file got, once it has ended."""
    counts, read = list[int](), reading.READERS["jsonl"]

    def counted(file: SourceFile, settings: ReaderSettings) -> Iterator[Record]:
        count = 0
        try:
            for record in read(file, settings):
                count += 1
                yield record
        finally:
            counts.append(count)

    monkeypatch.setitem(reading.READERS, "jsonl", counted)
    return counts


def load(file: Path, **options: Any) -> Corpus:
    return load_corpus(SourceOptions(train_file=[str(file)], **options))


def assert_equal(store: TokenStore, other: TokenStore) -> None:
    assert store.fingerprint == other.fingerprint
    assert store.name == other.name
    assert store.counts == other.counts
    assert np.array_equal(store.tokens, other.tokens)
    assert np.array_equal(store.lengths, other.lengths)
    assert (store.scored is None) == (other.scored is None)
    assert store.scored is None or other.scored is None or np.array_equal(store.scored, other.scored)


LIMITS: list[dict[str, Any]] = [
    {},
    {"validation_fraction": 0.5, "split_seed": 3},
    {"max_train_samples": 10},
    {"max_eval_samples": 2},
    {"max_train_samples": 7, "max_eval_samples": 3},
]


@pytest.mark.parametrize("options", LIMITS)
@pytest.mark.parametrize(("batch", "characters"), [(1, 1000), (3, 1000), (512, 1000), (512, 1 << 20)])
def test_the_stores_are_those_of_tokenize(
    tmp_path: Path,
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    options: dict[str, Any],
    batch: int,
    characters: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(split_stores, "DOCUMENTS_PER_BATCH", batch)
    monkeypatch.setattr(encoding, "CHARACTERS_PER_BATCH", characters)
    corpus = load(file, **options)
    both = tokenize_splits(corpus, tokenizer, cache_dir=tmp_path / "both", workers=1)
    for store, part in zip(both, (corpus.train, corpus.validation), strict=True):
        assert_equal(store, tokenize(part, tokenizer, cache_dir=tmp_path / "single", workers=1))
        assert not store.reused


@pytest.mark.parametrize("file", ["messages"], indirect=True)
def test_worker_processes_write_the_same_stores(
    tmp_path: Path, file: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split_stores, "DOCUMENTS_PER_BATCH", 5)
    monkeypatch.setattr(encoding, "BATCHES_BEFORE_WORKERS", 2)
    corpus = load(file, validation_fraction=0.3)
    alone, together = (
        tokenize_splits(corpus, tokenizer, cache_dir=tmp_path / str(workers), workers=workers) for workers in (1, 2)
    )
    for store, other in zip(alone, together, strict=True):
        assert_equal(store, other)


def test_a_source_is_read_once_for_both_parts(
    tmp_path: Path, file: Path, tokenizer: PreTrainedTokenizerBase, readings: list[int]
) -> None:
    corpus = load(file)
    readings.clear()
    tokenize_splits(corpus, tokenizer, cache_dir=tmp_path, workers=1)
    assert readings == [ROWS]
    stores = tokenize_splits(corpus, tokenizer, cache_dir=tmp_path, workers=1)
    assert readings == [ROWS]
    assert all(store.reused for store in stores)


def test_no_more_is_read_than_both_limits_need(
    tmp_path: Path, file: Path, tokenizer: PreTrainedTokenizerBase, readings: list[int]
) -> None:
    corpus = load(file, max_train_samples=5, max_eval_samples=1)
    readings.clear()
    tokenize_splits(corpus, tokenizer, cache_dir=tmp_path, workers=1)
    assert len(readings) == 1
    assert readings[0] <= 30


def test_a_missing_part_is_written_alone(tmp_path: Path, file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    corpus = load(file)
    train = tokenize(corpus.train, tokenizer, cache_dir=tmp_path, workers=1)
    stores = tokenize_splits(corpus, tokenizer, cache_dir=tmp_path, workers=1)
    assert [store.reused for store in stores] == [True, False]
    assert_equal(stores[0], train)


def test_parts_from_two_sources_are_tokenised_one_after_the_other(
    tmp_path: Path, file: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    other = tmp_path / "b.jsonl"
    other.write_text("".join(file.read_text().splitlines(keepends=True)[1:3]))
    train, validation = tokenize_splits(
        load(file, validation_file=[str(other)]), tokenizer, cache_dir=tmp_path / "cache", workers=1
    )
    assert (train.reused, validation.reused) == (False, False)
    assert validation.counts.documents == 2


def test_a_file_that_changes_leaves_no_store(tmp_path: Path, file: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    corpus = load(file)
    file.write_text(file.read_text().replace("hen", "cat"))
    with pytest.raises(DataError, match="changed while it was being read"):
        tokenize_splits(corpus, tokenizer, cache_dir=tmp_path / "cache", workers=1)
    assert list((tmp_path / "cache" / "tokens").iterdir()) == []
