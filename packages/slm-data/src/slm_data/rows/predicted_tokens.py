"""How many tokens of each segment have a loss."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from slm_data.rows.array_types import Ints

Mask = npt.NDArray[np.bool_]  # [tokens] of a token store: whether a token has a loss


def predicted_tokens(start: Ints, length: Ints, scored: Mask | None) -> Ints:
    """Return the number of tokens with a loss in each segment: scored ones except its first, which has no context.

    Args:
        start: First token of each segment, ``[segments]``.
        length: Tokens of each segment, at least 1; segments do not overlap, ``[segments]``.
        scored: The mask of the token store; None if all tokens are scored.
    """
    if scored is None:
        return length - 1
    counts = np.zeros(len(start), np.int64)
    if len(start):
        order = np.argsort(start)
        # Sums over [start, end) of each segment, and over the gaps between them, which are left out.
        bounds = np.stack([start[order], start[order] + length[order]], 1).reshape(-1)
        inner = bounds[: np.searchsorted(bounds, len(scored))]
        counts[order] = np.add.reduceat(scored, inner, dtype=np.int64)[::2] - scored[start[order]]
    return counts


def row_sums(first: Ints, values: Ints) -> Ints:
    """Return the sum of the ``values [segments]`` of each row; ``first [rows + 1]`` are the first segments of rows."""
    return np.diff(np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])[first])
