"""What one layer computes: the scale of its scores, its sliding window, its soft cap and its attention sinks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerAttention:
    """One layer's attention. Without the optional parts it is the softmax of scaled products over all keys so far.

    Attributes:
        scale: Products of queries and keys are multiplied by it.
        window: A query attends to the last ``window`` keys, its own included. None: to all.
        softcap: Scores s become softcap * tanh(s / softcap) before the mask. None: they stay as they are.
        sinks: [H] A logit for each query head that takes part in the softmax and has no value. None: there are none.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None

    def first_key(self, query: int) -> int:
        """The first key that the query at index ``query`` attends to."""
        return 0 if self.window is None else max(0, query + 1 - self.window)
