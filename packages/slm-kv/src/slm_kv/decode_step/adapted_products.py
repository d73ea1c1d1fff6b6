"""Products of a program whose rows may have adapters.

Operations read tables with a line for each adapter, and a row's number in the step's context.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from slm_kv.compiled.block_weights import BLOCK
from slm_kv.compiled.operations.low_rank import DOWN_WORDS, UP_WORDS, low_rank_down, low_rank_up
from slm_kv.compiled.program import Buffer, Instruction, barrier
from slm_kv.decode_step.adapter import Adapter
from slm_kv.decode_step.blocks import Linear

Instructions = list[Instruction]
Multiply = Callable[[Sequence[Linear], Buffer, Buffer], Instructions]
Outputs = Sequence[tuple[Sequence[Linear], Buffer]]  # layers, and where their outputs go side by side


class AdaptedProducts:
    """Adds the adapters' operations to products.

    Args:
        adapters: In the order of their numbers.
        rows: Makes a shared buffer of a name and a width, or returns it.
        multiply: Makes the product of layers with an input, without adapters.
    """

    def __init__(self, adapters: Sequence[Adapter], rows: Callable[[str, int], Buffer], multiply: Multiply) -> None:
        self._adapters, self._rows, self._multiply = adapters, rows, multiply
        self.keep: list[object] = [*adapters]

    def instructions(self, name: str, outputs: Outputs, x: Buffer) -> Instructions:
        """Layers with the input ``x``. Buffers of the same ``name`` are used again once a barrier has passed."""
        layers = [layer for group, _ in outputs for layer in group]
        down, code = self._down(name, layers, x)
        ups: Instructions = []
        for group, out in outputs:
            code += self._multiply(group, x, out)
            if down is not None:
                ups += self._ups(group, layers, down, out)
        return [*code, barrier(), *ups] if ups else code

    def _down(self, name: str, layers: Sequence[Linear], x: Buffer) -> tuple[Buffer | None, Instructions]:
        """A x of all layers side by side, and its buffer; None if no adapter has LoRA there."""
        matrices = [adapter.down(layers) for adapter in self._adapters]
        rank = max((len(matrix) for matrix in matrices if matrix is not None), default=0)
        if not rank:
            return None, []
        out = self._rows(f"{name} low rank", rank)
        lines = [(0, 0) if matrix is None else (matrix.ctypes.data, len(matrix)) for matrix in matrices]
        return out, [low_rank_down(x, out, self._table(lines, DOWN_WORDS))]

    def _ups(self, group: Sequence[Linear], layers: Sequence[Linear], down: Buffer, out: Buffer) -> Instructions:
        """Add B A x to the outputs of a group, whose layers are among those of ``down``."""
        units = sum(-(-layer.outputs // BLOCK) for layer in group)
        code, unit, column = [], 0, 0
        for layer in group:
            before = layers[: layers.index(layer)]
            lines = [self._up_line(adapter, layer, before) for adapter in self._adapters]
            if any(rank for _, rank, _ in lines):
                columns = out.columns(column, layer.outputs)
                code.append(low_rank_up(down, columns, self._table(lines, UP_WORDS), unit, units))
            unit, column = unit - (-layer.outputs // BLOCK), column + layer.outputs
        return code

    @staticmethod
    def _up_line(adapter: Adapter, layer: Linear, before: Sequence[Linear]) -> tuple[int, int, int]:
        matrix = adapter.up(layer)
        return (0, 0, 0) if matrix is None else (matrix.ctypes.data, len(matrix), adapter.rank(before))

    def _table(self, lines: Sequence[tuple[int, ...]], words: int) -> np.ndarray:
        table = np.array(lines, np.int64).reshape(len(self._adapters), words)
        self.keep.append(table)
        return table
