"""``RowStream``: rows made on the fly from windows of documents, for corpora larger than the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from slm_data.rows.dataset import Row, cut_row
from slm_data.rows.long_rows import LongRows
from slm_data.rows.packing import RowPlan, plan_rows
from slm_data.rows.packing_names import Packing
from slm_data.sources.documents import Documents
from slm_data.tokens.encoder import EncodedBatch
from slm_data.tokens.encoding import encode_in_batches
from slm_data.tokens.settings import EncodingOptions, encoding_settings
from slm_data.tokens.store import corpus_fingerprint

WINDOW_DOCUMENTS = 1024  # documents that are in memory, packed and shuffled together


@dataclass(frozen=True)
class RowStream(IterableDataset[Row]):
    """An iterable dataset of the rows of ``documents``, made without a token store.

    Each window of documents is packed by ``plan_rows``. The order is a pure function of the documents and ``seed``.
    Workers of a DataLoader take windows in turn; each of them reads all documents.
    """

    documents: Documents
    tokenizer: PreTrainedTokenizerBase
    block_size: int
    packing: Packing
    fill: float = 0.95
    seed: int = 0
    encoding: EncodingOptions | None = None
    long_rows: LongRows = "split"

    @property
    def fingerprint(self) -> str:
        """A hash of texts and encoding, equal to that of a TokenStore of both."""
        return corpus_fingerprint(self.documents, self.tokenizer, self.encoding)

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        if worker:
            # The tokenizer's threads do not survive the fork of a worker: with them, encoding would wait forever.
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        options = self.encoding or EncodingOptions()
        settings = encoding_settings(self.tokenizer, options, data_format=self.documents.data_format)
        for window, batch in enumerate(encode_in_batches(self.documents, settings, WINDOW_DOCUMENTS)):
            if worker and window % worker.num_workers != worker.id:
                continue
            plan = self._plan(batch)
            for row in np.random.default_rng((self.seed, window)).permutation(len(plan)).tolist():
                yield cut_row(batch.ids, plan, row, batch.scored)

    def _plan(self, batch: EncodedBatch) -> RowPlan:
        return plan_rows(
            batch.lengths,
            self.block_size,
            self.packing,
            fill=self.fill,
            seed=self.seed,
            scored=batch.scored,
            long_rows=self.long_rows,
        )
