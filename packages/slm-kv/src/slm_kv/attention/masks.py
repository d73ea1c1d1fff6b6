"""Recognising the masks that a model asks transformers for.

Shapes: B rows of a batch, T queries, L keys, P positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from slm_kv.errors import KVError

MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # of the indices of batch, head, query and key


class UnknownMask(KVError):
    """A mask that is neither causal nor a sliding window. Its text names the kind."""


@dataclass
class MaskRecorder:
    """Makes masks that can be recognised when they reach a layer's attention, and records what they stand for.

    Attributes:
        positions: The number of positions for which masks are evaluated.
    """

    positions: int
    _recorded: list[tuple[Tensor, int | UnknownMask | None]] = field(default_factory=list, compare=False)

    def record(self, mask_function: MaskFunction, batch: int, queries: int, keys: int, device: Any) -> Tensor:
        """Record a mask function and return a mask [B, 1, T, L] that stands for it."""
        mask = torch.ones(batch, 1, queries, keys, dtype=torch.bool, device=device)
        kind: int | UnknownMask | None
        try:
            kind = sliding_window(mask_function, self.positions, device)
        except UnknownMask as unknown:  # raised if a layer uses it
            kind = unknown
        self._recorded.append((mask, kind))
        return mask

    def window_of(self, mask: Any) -> int | None:
        """The sliding window of a mask that has reached attention; None if all earlier tokens are seen.

        Raises:
            UnknownMask: it was not made by ``record``, or is neither causal nor a sliding window.
        """
        if mask is None:  # attention is then causal
            return None
        for recorded, kind in self._recorded:
            # A mask that the model has sliced is still in the same memory.
            if isinstance(mask, Tensor) and mask.untyped_storage().data_ptr() == recorded.untyped_storage().data_ptr():
                if isinstance(kind, UnknownMask):
                    raise kind
                return kind
        raise UnknownMask("a mask of its own")


def sliding_window(mask_function: MaskFunction, positions: int, device: Any = "cpu") -> int | None:
    """The window of a mask function, found by evaluating it for queries all over P positions; None if it is causal.

    A query's window includes its own token. A window of at least P tokens is none.

    Raises:
        UnknownMask: it is neither causal nor a sliding window.
    """
    keys_P = torch.arange(positions, device=device)
    window = int(_seen(mask_function, positions - 1, keys_P).sum())
    third, half = positions // 3, positions // 2
    queries = {0, 1, 2, third, half, half + 1, positions - 2, positions - 1, window - 1, window, window + 1}
    chunked = False
    for query in sorted(query for query in queries if 0 <= query < positions):
        seen_P = _seen(mask_function, query, keys_P)
        if bool(seen_P[query + 1 :].any()):
            raise UnknownMask("attention to later tokens")
        if not torch.equal(seen_P, _last(query, int(seen_P.sum()), keys_P)):
            raise UnknownMask("a mask that is not causal or a sliding window")
        chunked |= not torch.equal(seen_P, _last(query, window, keys_P))
    if chunked:
        raise UnknownMask("attention in chunks")
    return None if window == positions else window


def _seen(mask_function: MaskFunction, query: int, keys_P: Tensor) -> Tensor:
    """Which of the keys a query sees, [P]."""
    zero = torch.zeros((), dtype=torch.long, device=keys_P.device)
    try:
        return mask_function(zero, zero, zero + query, keys_P).expand(len(keys_P))
    except (IndexError, RuntimeError) as error:
        raise UnknownMask("a mask that depends on the tokens") from error


def _last(query: int, count: int, keys_P: Tensor) -> Tensor:
    """The last ``count`` keys up to the query, [P]."""
    return (keys_P <= query) & (keys_P > query - count)
