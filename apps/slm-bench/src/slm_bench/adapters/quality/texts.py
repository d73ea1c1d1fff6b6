"""Token rows for training and evaluation. Only answers of conversations have a loss; of other texts every token has."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slm_bench.adapters.quality.conversations import NAME as CONVERSATIONS
from slm_bench.adapters.quality.conversations import load_conversations
from slm_data import (
    Corpus,
    Documents,
    LongRows,
    Packing,
    RowCollator,
    RowDataset,
    SourceOptions,
    load_corpus,
    plan_rows,
    tokenize,
)

TRAIN_DOCUMENTS, EVAL_DOCUMENTS = 1000, 200  # at most; more are neither read nor tokenised


@dataclass(frozen=True)
class Rows:
    """Token ids and labels, both ``[rows, tokens]``, and tokens with a loss per byte of their text."""

    input_ids: Tensor
    labels: Tensor
    tokens_per_byte: float

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Texts:
    """Rows to train on, held-out rows of the same texts, and rows of the texts that the base was trained on."""

    train: Rows
    held_out: Rows
    own: Rows | None


def read_texts(dataset: str, tokenizer: Any, block_size: int, *, train: int, held_out: int) -> tuple[Rows, Rows]:
    """Return up to ``train`` rows for training and ``held_out`` for evaluation.

    Raises DataError for an unknown dataset.
    """
    corpus = _load(dataset)
    return _rows(corpus.train, tokenizer, block_size, train), _rows(corpus.validation, tokenizer, block_size, held_out)


def to_device(rows: Rows, device: Any) -> Rows:
    """Return ``rows`` on ``device``."""
    return Rows(rows.input_ids.to(device), rows.labels.to(device), rows.tokens_per_byte)


def _load(dataset: str) -> Corpus:
    if dataset == CONVERSATIONS:
        return load_conversations()
    return load_corpus(SourceOptions(dataset, max_train_samples=TRAIN_DOCUMENTS, max_eval_samples=EVAL_DOCUMENTS))


def _rows(documents: Documents, tokenizer: Any, block_size: int, count: int) -> Rows:
    store, is_text = tokenize(documents, tokenizer), documents.data_format == "text"
    packing: Packing = "concat" if is_text else "none"
    long_rows: LongRows = "split" if is_text else "cut"
    plan = plan_rows(store.lengths, block_size, packing, scored=store.scored, long_rows=long_rows)
    dataset = RowDataset(store, plan)
    rows = [dataset[index] for index in range(min(count, len(dataset)))]
    batch = RowCollator(tokenizer.eos_token_id, packed=False, multiple=block_size)(rows)
    return Rows(batch["input_ids"], batch["labels"], store.tokens_per_byte)
