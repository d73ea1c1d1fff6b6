"""Rows made on the fly."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from slm_data import (
    Conversation,
    Documents,
    EncodingOptions,
    Example,
    Message,
    Row,
    RowDataset,
    RowStream,
    SourceOptions,
    choose_template,
    load_corpus,
    plan_rows,
    sample_base,
    tokenize,
)
from slm_data.rows import streaming


def test_workers_share_the_rows_and_none_occurs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WINDOW_DOCUMENTS", 8)
    corpus = load_corpus(SourceOptions(max_train_samples=40))
    stream = RowStream(corpus.train, AutoTokenizer.from_pretrained(sample_base()), 64, "best_fit")
    alone = [row.input_ids.tolist() for row in stream]
    # slm-train sets it. The tokenizer's threads exist by now, and do not survive the fork.
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    shared = [row.input_ids.tolist() for row in loader]
    assert len(alone) > 40
    assert sorted(shared) == sorted(alone)


def test_a_stream_of_conversations_scores_the_same_tokens_as_a_store(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    def read() -> Iterator[Example]:
        for number in range(30):
            answer = Message("assistant", f"the hen {number}" * (number % 4), is_completion=number % 5 > 0)
            yield Conversation((Message("user", f"moon {number}"), answer))

    documents = Documents("chats", "chats", read, data_format="messages")
    options = EncodingOptions(choose_template("plain", tokenizer))
    store = tokenize(documents, tokenizer, options, cache_dir=tmp_path)
    rows = RowDataset(store, plan_rows(store.lengths, 24, "none", scored=store.scored, long_rows="cut"))
    stream = RowStream(documents, tokenizer, 24, "none", encoding=options, long_rows="cut")
    assert stream.fingerprint == store.fingerprint
    assert sorted(map(as_lists, stream)) == sorted(as_lists(rows[index]) for index in range(len(rows)))
    assert len(rows) > 10


def as_lists(row: Row) -> tuple[list[int], list[bool]]:
    assert row.scored is not None
    return row.input_ids.tolist(), row.scored.tolist()
