"""Token rows for training and evaluation. Only answers of conversations have a loss; of other texts every token has."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slm_bench.adapters.quality.conversations import NAME as CONVERSATIONS
from slm_bench.adapters.quality.conversations import load_conversations
from slm_data import Corpus, Documents, RowCollator, RowDataset, SourceOptions, load_corpus, plan_rows, tokenize

MAX_DOCUMENTS = 3000  # of each split; more than enough, and quickly tokenised


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


def read_texts(dataset: str, tokenizer: Any, block_size: int) -> tuple[Rows, Rows]:
    """Return all rows for training and for evaluation. Raises DataError for an unknown dataset."""
    corpus = _load(dataset)
    return _rows(corpus.train, tokenizer, block_size), _rows(corpus.validation, tokenizer, block_size)


def first_rows(rows: Rows, count: int) -> Rows:
    """Return the first ``count`` rows, or all if there are fewer."""
    return Rows(rows.input_ids[:count], rows.labels[:count], rows.tokens_per_byte)


def to_device(rows: Rows, device: Any) -> Rows:
    """Return ``rows`` on ``device``."""
    return Rows(rows.input_ids.to(device), rows.labels.to(device), rows.tokens_per_byte)


def _load(dataset: str) -> Corpus:
    if dataset == CONVERSATIONS:
        return load_conversations()
    return load_corpus(SourceOptions(dataset, max_train_samples=MAX_DOCUMENTS, max_eval_samples=MAX_DOCUMENTS))


def _rows(documents: Documents, tokenizer: Any, block_size: int) -> Rows:
    store = tokenize(documents, tokenizer)
    is_text = documents.data_format == "text"
    plan = plan_rows(
        store.lengths,
        block_size,
        "concat" if is_text else "none",
        scored=store.scored,
        long_rows="split" if is_text else "cut",
    )
    dataset = RowDataset(store, plan)
    rows = [dataset[index] for index in range(len(dataset))]
    batch = RowCollator(tokenizer.eos_token_id, packed=False, multiple=block_size)(rows)
    return Rows(batch["input_ids"], batch["labels"], store.tokens_per_byte)
