"""Products of a program whose rows may have adapters.

Operations read tables with a line for each adapter, and a row's number in the step's context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from slm_kv.compiled.block_weights import BLOCK
from slm_kv.compiled.operations.butterfly import BUTTERFLY_WORDS, butterfly
from slm_kv.compiled.operations.low_rank import DOWN_WORDS, UP_WORDS, low_rank_down, low_rank_up
from slm_kv.compiled.program import Buffer, Instruction, barrier
from slm_kv.decode_step.adapter import Adapter, Rotation
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
        rotated, code = self._rotated_inputs(name, layers, x)
        down, down_code = self._down(name, layers, x)
        code += down_code
        updates: Instructions = []
        for group, out in outputs:
            for part, part_x, part_out in _parts(group, rotated, x, out):
                code += self._multiply(part, part_x, part_out)
                updates += self._ups(part, layers, down, part_out) if down else []
        rotations = self._rotated_outputs(outputs)
        if updates or rotations:
            code += [barrier(), *updates]
        return [*code, *rotations, barrier()] if rotations else code

    def _rotated_inputs(
        self, name: str, layers: Sequence[Linear], x: Buffer
    ) -> tuple[dict[Linear, Buffer], Instructions]:
        """The rotated inputs of layers that have any."""
        buffers: dict[Linear, Buffer] = {}
        code: Instructions = []
        for index, layer in enumerate(layers):
            table = self._rotations(layer, "inputs")
            if table is not None:
                buffers[layer] = self._rows(f"{name} {index} rotated", x.width)
                code.append(butterfly(x, buffers[layer], table))
        return buffers, [*code, barrier()] if code else code

    def _rotated_outputs(self, outputs: Outputs) -> Instructions:
        """Rotate outputs in place."""
        code = []
        for group, out in outputs:
            column = 0
            for layer in group:
                columns, table = out.columns(column, layer.outputs), self._rotations(layer, "outputs")
                code += [] if table is None else [butterfly(columns, columns, table)]
                column += layer.outputs
        return code

    def _rotations(self, layer: Linear, side: str) -> np.ndarray | None:
        """The table of the rotations of a layer's inputs or outputs; None if no adapter has one."""
        rotations = [adapter.rotation(layer, side) for adapter in self._adapters]
        if not any(rotations):
            return None
        return self._table([_rotation_line(rotation) for rotation in rotations], BUTTERFLY_WORDS)

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


def _rotation_line(rotation: Rotation | None) -> tuple[int, int, int, int]:
    if rotation is None:
        return 0, 0, 1, 0
    magnitudes = rotation.magnitudes_array
    table, magnitudes_address = rotation.table, 0 if magnitudes is None else magnitudes.ctypes.data
    return table.ctypes.data, len(table), rotation.block, magnitudes_address


def _parts(
    group: Sequence[Linear], rotated: Mapping[Linear, Buffer], x: Buffer, out: Buffer
) -> Iterator[tuple[Sequence[Linear], Buffer, Buffer]]:
    """Products for a group of layers: one, or one for each layer if some have inputs of their own."""
    if not any(layer in rotated for layer in group):
        yield group, x, out
        return
    column = 0
    for layer in group:
        yield (layer,), rotated.get(layer, x), out.columns(column, layer.outputs)
        column += layer.outputs
