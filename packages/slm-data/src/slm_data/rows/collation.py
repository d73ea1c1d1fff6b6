"""``RowCollator``: from rows to a batch of tensors.

Rows are padded on the right and have no attention mask: attention is causal, so no token sees the padding after it,
and padding has no loss. In packed rows the positions restart at 0 with each document. transformers then prevents
attention between documents, but only without an attention mask and without a cache: call the model with
``use_cache=False``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from slm_data.rows.dataset import Row

IGNORE_INDEX = -100  # the label of a token without a loss, as in torch and transformers


@dataclass(frozen=True)
class RowCollator:
    """Collates rows to ``input_ids``, ``labels`` and, if ``packed``, ``position_ids``, each ``[batch, tokens]``, int64.

    The first token of each segment has no label, because nothing in its own document precedes it; neither have tokens
    that are not scored, such as those of a prompt.

    Attributes:
        pad_token_id: Fills the rows after their tokens.
        packed: Whether rows contain several documents that must not attend to each other.
        multiple: ``tokens`` is rounded up to a multiple of this. The result may exceed the model's context; the
            caller has to check that.
    """

    pad_token_id: int
    packed: bool
    multiple: int = 1

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), -(-longest // self.multiple) * self.multiple)
        input_ids = np.full(shape, self.pad_token_id, np.int64)
        labels = np.full(shape, IGNORE_INDEX, np.int64)
        position_ids = np.zeros(shape, np.int64)
        for index, row in enumerate(rows):
            tokens = len(row.input_ids)
            input_ids[index, :tokens] = labels[index, :tokens] = row.input_ids
            if row.scored is not None:
                labels[index, :tokens][~row.scored] = IGNORE_INDEX
            first = np.cumsum(row.segments) - row.segments
            labels[index, first] = IGNORE_INDEX
            position_ids[index, :tokens] = np.arange(tokens) - np.repeat(first, row.segments)
            # Padding is a segment of its own: positions that continued could exceed the model's context.
            position_ids[index, tokens:] = np.arange(shape[1] - tokens)
        batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        if self.packed:
            batch["position_ids"] = torch.from_numpy(position_ids)
        return batch
