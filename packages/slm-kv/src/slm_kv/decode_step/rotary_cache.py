"""Tables of rotary positions, filled as far as texts have come."""

from __future__ import annotations

import numpy as np
import torch

from slm_kv.compiled.operations.rotary import Rotary as RotaryTables
from slm_kv.decode_step.behaviour import rotary_tables
from slm_kv.decode_step.blocks import Rotary

FILLED_AT_ONCE = 256  # positions


class RotaryCache:
    """Cosines and sines [positions, dim] of one kind of rotary positions, in the order of a head's dimensions.

    The whole table is reserved, so that its address stays; memory is used as it is filled.
    """

    def __init__(self, rotary: Rotary, positions: int) -> None:
        self._rotary, self._filled = rotary, 0
        shape = (positions, rotary.dim)
        self.tables = RotaryTables(np.zeros(shape, np.float32), np.zeros(shape, np.float32), rotary.interleaved)

    def fill(self, positions: int) -> None:
        """Make positions 0 to ``positions`` - 1 available."""
        if positions <= self._filled:
            return
        end = min(-(-positions // FILLED_AT_ONCE) * FILLED_AT_ONCE, len(self.tables.cos))
        with torch.inference_mode():
            halves = rotary_tables(self._rotary, end)
        for table, half in zip((self.tables.cos, self.tables.sin), halves, strict=True):
            both = half.repeat_interleave(2, 1) if self._rotary.interleaved else half.repeat(1, 2)
            table[:end] = both.numpy()
        self._filled = end
