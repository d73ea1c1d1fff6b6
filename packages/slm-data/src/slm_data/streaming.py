"""Rows made on the way, for corpora larger than the disk: a window of documents at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from slm_data.packing import Packing, plan_rows
from slm_data.rows import Row, cut_row
from slm_data.sources import Documents
from slm_data.tokens import encode_in_batches, fingerprint

WINDOW = 1024  # documents that are laid out and shuffled together; memory holds one window


@dataclass(frozen=True)
class RowStream(IterableDataset[Row]):
    """Rows of ``documents`` in windows: nothing is stored, no length is known, and the order is a pure
    function of the documents and ``seed``. Each window is laid out as ``plan_rows`` lays out a corpus.

    Workers of a DataLoader take windows in turns, and each reads all documents."""

    documents: Documents
    tokenizer: PreTrainedTokenizerBase
    block_size: int
    packing: Packing
    fill: float = 0.95
    seed: int = 0

    @property
    def fingerprint(self) -> str:
        """Changes with the texts and the tokenizer, as that of a TokenStore."""
        return fingerprint(self.documents, self.tokenizer)

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        for number, (tokens, lengths) in enumerate(encode_in_batches(self.documents, self.tokenizer, WINDOW)):
            if worker and number % worker.num_workers != worker.id:
                continue
            plan = plan_rows(lengths, self.block_size, self.packing, fill=self.fill, seed=self.seed)
            for row in np.random.default_rng((self.seed, number)).permutation(len(plan)).tolist():
                yield cut_row(tokens, plan, row)
