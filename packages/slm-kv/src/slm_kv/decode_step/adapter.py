"""What an adapter does to the linear layers of a described model, as far as compiled operations can compute it.

Shapes: I inputs and O outputs of a layer, r LoRA's rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slm_kv.decode_step.blocks import Linear


@dataclass(frozen=True, eq=False)
class LowRank:
    """LoRA: the output is that of the base layer + scaling * B A x, with A [r, I] and B [O, r]."""

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """The rank r."""
        return len(self.a)


class Adapter:
    """An adapter's updates of layers, by the modules that a model calls (``Linear.place``).

    Weights are copied once, when a program is built, in the layout that operations read.
    """

    def __init__(self, updates: Mapping[Any, LowRank]) -> None:
        self._updates = updates
        self._copies: dict[tuple[Any, ...], np.ndarray] = {}

    def low_rank(self, layer: Linear) -> LowRank | None:
        """LoRA on ``layer``; None if there is none."""
        return self._updates.get(layer.place)

    def rank(self, layers: Sequence[Linear]) -> int:
        """The sum of the ranks of LoRA on ``layers``."""
        return sum(update.rank for update in map(self.low_rank, layers) if update is not None)

    def down(self, layers: Sequence[Linear]) -> np.ndarray | None:
        """The matrices A of ``layers``, one below the other, float32 [sum of r, I]; None if there are none."""
        updates = [update for update in map(self.low_rank, layers) if update is not None]
        if not updates:
            return None
        key = ("down", *(layer.place for layer in layers))
        return self._copy(key, lambda: torch.cat([update.a.float() for update in updates]))

    def up(self, layer: Linear) -> np.ndarray | None:
        """Scaling * B, transposed, float32 [r, O]; None if there is no LoRA on ``layer``."""
        update = self.low_rank(layer)
        if update is None:
            return None
        return self._copy(("up", layer.place), lambda: update.b.float().t() * update.scaling)

    def _copy(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> np.ndarray:
        if key not in self._copies:
            with torch.inference_mode():
                self._copies[key] = np.array(make().numpy(), np.float32, order="C")
        return self._copies[key]
