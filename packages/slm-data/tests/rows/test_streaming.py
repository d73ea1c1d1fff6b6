"""Rows made on the fly."""

import pytest
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from slm_data import RowStream, SourceOptions, load_corpus, sample_base
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
