"""``RowSampler``: the order of rows in an epoch, optionally grouped by length."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

GROUPS_PER_WINDOW = 50  # groups whose rows are sorted by length together


class RowSampler(Sampler[int]):
    """Shuffles rows by seed and epoch alone, so that a resumed run continues in the same order.

    transformers' own length-grouped sampler draws from the global random state instead: its order after the first
    epoch depends on what ran before.

    Args:
        row_lengths: Tokens of each row, ``[rows]``.
        seed: Combined with the epoch set by ``set_epoch``.
        group: If above 1, rows of similar length follow each other in groups of this size, to minimise padding;
            the groups are shuffled.
    """

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
        """Return the row numbers of the current epoch, ``[rows]``."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.row_lengths))
        return self._grouped(order, rng) if self.group > 1 else order

    def _grouped(self, order: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Sort by length within windows, then shuffle whole groups."""
        window = GROUPS_PER_WINDOW * self.group
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([part[np.argsort(-self.row_lengths[part], kind="stable")] for part in parts])
        whole = len(order) // self.group * self.group
        groups = order[:whole].reshape(-1, self.group)
        groups = groups[rng.permutation(len(groups))]
        if len(groups):
            # The group with the longest row, which is padded to the most tokens, comes first, so that a run that would
            # exceed the memory fails in its first step.
            longest = int(self.row_lengths[groups].max(axis=1).argmax())
            groups[[0, longest]] = groups[[longest, 0]]
        return np.concatenate([groups.reshape(-1), order[whole:]])
