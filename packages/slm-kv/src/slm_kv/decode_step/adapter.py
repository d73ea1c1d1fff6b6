"""What an adapter does to the linear layers of a described model, as far as compiled operations can compute it.

Shapes: I inputs and O outputs of a layer, r LoRA's rank; a butterfly's factor has matrices [G, m, m].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor

from slm_kv.decode_step.blocks import Linear
from slm_kv.peft_models import Factors


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


@dataclass(frozen=True, eq=False)
class Rotation:
    """A product of factors, and magnitudes that the result is multiplied by."""

    factors: Factors
    magnitudes: Tensor | None = None

    @property
    def block(self) -> int:
        """Blocks of so many columns do not depend on each other."""
        return lcm(*(matrices.shape[1] * stride for matrices, stride in self.factors))

    @cached_property
    def matrices(self) -> list[np.ndarray]:
        """Those of each factor, float32 [m, m, G]."""
        return [_float32(matrices.permute(1, 2, 0)) for matrices, _ in self.factors]

    @cached_property
    def magnitudes_array(self) -> np.ndarray | None:
        """The magnitudes in float32."""
        return None if self.magnitudes is None else _float32(self.magnitudes)

    @cached_property
    def table(self) -> np.ndarray:
        """The factors as operations read them: address of the matrices, m, stride."""
        lines = [
            (array.ctypes.data, len(array), stride)
            for array, (_, stride) in zip(self.matrices, self.factors, strict=True)
        ]
        return np.array(lines, np.int64).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Rotated:
    """A butterfly: the base layer's input is rotated, its output, or both."""

    inputs: Rotation | None
    outputs: Rotation | None


class Adapter:
    """An adapter's updates of layers, by the modules that a model calls (``Linear.place``).

    Weights are copied once, when a program is built, in the layout that operations read.
    """

    def __init__(self, updates: Mapping[Any, LowRank | Rotated]) -> None:
        self._updates = updates
        self._copies: dict[tuple[Any, ...], np.ndarray] = {}

    def low_rank(self, layer: Linear) -> LowRank | None:
        """LoRA on ``layer``; None if there is none."""
        update = self._updates.get(layer.place)
        return update if isinstance(update, LowRank) else None

    def rotation(self, layer: Linear, side: str) -> Rotation | None:
        """The rotation of a layer's ``inputs`` or ``outputs``; None if there is none."""
        update = self._updates.get(layer.place)
        if not isinstance(update, Rotated):
            return None
        return update.inputs if side == "inputs" else update.outputs

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
                self._copies[key] = _float32(make())
        return self._copies[key]


def _float32(tensor: Tensor) -> np.ndarray:
    """A copy, C-contiguous."""
    return np.array(tensor.detach().float().numpy(), order="C")
