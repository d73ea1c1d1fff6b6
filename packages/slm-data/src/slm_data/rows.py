"""Rows to batches: a map-style dataset over a plan, and the collator that makes tensors of rows.

Rows are padded on the right and carry no attention mask: attention is causal, so no token sees
the padding behind it, and padding has no loss. In ``best_fit`` rows the positions start anew with
each document, which is how transformers keeps documents apart -- but only without a mask and
without a cache, so models must be called with ``use_cache=False``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from slm_data.packing import Packing, RowPlan
from slm_data.tokens import TokenStore

IGNORE = -100  # the label of a token without a loss, as in torch and transformers


@dataclass(frozen=True)
class Row:
    """One row: ``input_ids [n]``, and the length of each of its segments."""

    input_ids: npt.NDArray[np.int64]
    segments: npt.NDArray[np.int64]


class RowDataset(Dataset[Row]):
    """Rows of ``plan`` read from ``store``; nothing is held in memory."""

    def __init__(self, store: TokenStore, plan: RowPlan):
        self.store, self.plan = store, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, row: int) -> Row:
        return cut_row(self.store.tokens, self.plan, row)

    @property
    def packing(self) -> Packing:
        return self.plan.packing


def cut_row(tokens: npt.NDArray[np.unsignedinteger[Any]], plan: RowPlan, row: int) -> Row:
    """Row ``row`` of ``plan``, from the flat ``tokens`` that the plan is about."""
    segments = slice(plan.first[row], plan.first[row + 1])
    starts, lengths = plan.start[segments], plan.length[segments]
    pieces = [tokens[at : at + n] for at, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return Row(np.concatenate(pieces).astype(np.int64), lengths)


@dataclass(frozen=True)
class RowCollator:
    """Rows to ``input_ids``, ``labels`` and, for packed rows, ``position_ids``, each ``[batch, tokens]``.

    ``tokens`` is rounded up to a ``multiple``, past what the model reads too: that is the caller's to see to.
    The first token of a segment has no label: nothing in its own document comes before it.
    """

    pad_token_id: int
    packed: bool
    multiple: int = 1

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        longest = max(len(row.input_ids) for row in rows)
        shape = (len(rows), -(-longest // self.multiple) * self.multiple)
        input_ids = np.full(shape, self.pad_token_id, np.int64)
        labels = np.full(shape, IGNORE, np.int64)
        position_ids = np.zeros(shape, np.int64)
        for at, row in enumerate(rows):
            tokens = len(row.input_ids)
            input_ids[at, :tokens] = labels[at, :tokens] = row.input_ids
            first = np.cumsum(row.segments) - row.segments
            labels[at, first] = IGNORE
            position_ids[at, :tokens] = np.arange(tokens) - np.repeat(first, row.segments)
            position_ids[at, tokens:] = np.arange(shape[1] - tokens)
        batch = {"input_ids": torch.from_numpy(input_ids), "labels": torch.from_numpy(labels)}
        if self.packed:
            batch["position_ids"] = torch.from_numpy(position_ids)
        return batch


class RowSampler(Sampler[int]):
    """The order of rows in an epoch: a pure function of seed and epoch, so that a resumed run
    finds its place. With ``group``, rows of like length follow each other in groups of that many,
    and the groups are shuffled: padding becomes rare."""

    def __init__(self, row_lengths: npt.ArrayLike, *, seed: int, group: int = 0):
        self.row_lengths = np.asarray(row_lengths)
        self.seed, self.group, self.epoch = seed, group, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.row_lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def order(self) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.row_lengths))
        return self._grouped(order, rng) if self.group > 1 else order

    def _grouped(self, order: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Sort within large windows, then shuffle whole groups; the one with the longest row, padded to
        the most tokens, comes first, so that a lack of memory shows at the first step."""
        window = 50 * self.group
        parts = [order[at : at + window] for at in range(0, len(order), window)]
        order = np.concatenate([part[np.argsort(-self.row_lengths[part], kind="stable")] for part in parts])
        whole = len(order) // self.group * self.group
        groups = order[:whole].reshape(-1, self.group)
        groups = groups[rng.permutation(len(groups))]
        if len(groups):
            longest = int(self.row_lengths[groups].max(axis=1).argmax())
            groups[[0, longest]] = groups[[longest, 0]]
        return np.concatenate([groups.reshape(-1), order[whole:]])
