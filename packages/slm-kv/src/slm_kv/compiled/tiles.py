"""Tiles: the product of 1 to 4 rows and one block of a packed weight, with all sums in registers.

A block is read once, from its beginning to its end, and memory far ahead in it is prefetched: a single stream like this
reads faster than several side by side. A row's sums are added in the order of the inputs, whatever other rows the tile
has.

A step is the least number of inputs of a block that lie together: see ``block_weights`` for the layouts.
"""

# numba's builders are untyped.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from slm_kv.compiled.vectors import (
    CACHE_LINE,
    FLOAT,
    FLOATS,
    INT32,
    INT64,
    INTS,
    LANES,
    constant,
    dot_product,
    load,
    load_halves,
    multiply_add,
    offset,
    prefetch,
    splat,
    store,
)

MAX_TILE_ROWS = 4
REGISTERS_WITHOUT_AVX512 = 4  # of sums; LLVM makes two or four smaller ones of each
SUMS_ROW_BYTES = 256  # from row to row of the sums that a tile stores
GROUP = 32  # inputs that share a scale, and are a step
CODE_ROW_BYTES = 256  # four codes of 8 bits, or eight of 4 bits, of each of 64 outputs
SCALE_BYTES = 128


@dataclass
class Step:
    """The code of one step of a tile.

    Attributes:
        weights: Address of the step's weights.
        x: Address of each input row.
        index, steps: The number of the step, and the number of all steps.
        sums: Each row's and register's sums, by (row, vector).
        features: Of the CPU that numba compiles for.
        format: The format, whose memory ahead is prefetched.
    """

    builder: Any
    weights: Any
    x: list[Any]
    index: Any
    steps: Any
    sums: dict[tuple[int, int], Any]
    features: str
    format: TileFormat

    def load(self, nbytes: int, element: Any) -> Any:
        """What is ``nbytes`` after the beginning of the step's weights."""
        return load(self.builder, offset(self.builder, self.weights, nbytes), element)

    def prefetch(self, vector: int) -> None:
        """Prefetch a register's share of the cache lines of a later step: all at once would be too many to wait for."""
        lines, vectors = self.format.nbytes // CACHE_LINE, self.format.vectors
        for line in range(lines * vector // vectors, lines * (vector + 1) // vectors):
            prefetch(self.builder, offset(self.builder, self.weights, self.format.ahead + CACHE_LINE * line))

    def add(self, row: int, vector: int, x: Any, y: Any) -> None:
        """Add ``x * y`` to a row's sums."""
        slot = self.sums[row, vector]
        self.builder.store(multiply_add(self.builder, x, y, self.builder.load(slot)), slot)

    def input(self, row: int, nbytes: int, per_step: int, scalar: Any, vector: Any) -> Any:
        """The number at ``nbytes`` of a row's step, each of which has ``per_step`` bytes, in all lanes."""
        address = self.builder.add(self.x[row], self.builder.mul(self.index, INT64(per_step)))
        return splat(self.builder, load(self.builder, offset(self.builder, address, nbytes), scalar), vector)

    @property
    def rows(self) -> range:
        """The rows of the tile."""
        return range(len(self.x))

    @property
    def vectors(self) -> list[int]:
        """The registers of 16 outputs."""
        return sorted({vector for _, vector in self.sums})


def _float32(step: Step) -> None:
    x = [step.input(row, 0, 4, FLOAT, FLOATS) for row in step.rows]
    for vector in step.vectors:
        step.prefetch(vector)
        weights = step.load(64 * vector, FLOATS)
        for row in step.rows:
            step.add(row, vector, weights, x[row])


def _bfloat16(step: Step, halves: tuple[int, ...] = (0, 1)) -> None:
    """Pairs of inputs, the first in the lower half of a word. ``halves``: the last input may be alone."""
    builder = step.builder
    x = {(row, half): step.input(row, 4 * half, 8, FLOAT, FLOATS) for row in step.rows for half in halves}
    for vector in step.vectors:
        step.prefetch(vector)
        pairs = step.load(64 * vector, INTS)
        bits = builder.shl(pairs, constant(INTS, 16)), builder.and_(pairs, constant(INTS, 0xFFFF0000))
        for half in halves:
            weights = builder.bitcast(bits[half], FLOATS)
            for row in step.rows:
                step.add(row, vector, weights, x[row, half])


def _bfloat16_last(step: Step) -> None:
    _bfloat16(step, (0,))


def _quantised(step: Step, bits: int, zero: int = 0, has_minimum: bool = False) -> None:
    """A group: exact integer sums of codes and 8-bit inputs, times both scales.

    The codes are unsigned. ``zero`` times the sum of the inputs is subtracted first.
    """
    builder, dot = step.builder, dot_product(step.features)
    scale_at = CODE_ROW_BYTES * bits
    scales, totals = zip(*(_group_of_inputs(step, row) for row in step.rows), strict=True)
    first = [splat(builder, builder.mul(total, INT32(-zero)), INTS) for total in totals]
    for vector in step.vectors:
        step.prefetch(vector)
        sums = list(first)
        for code_row in range(bits):
            codes = step.load(CODE_ROW_BYTES * code_row + 64 * vector, INTS)
            for index, part in enumerate(unpacked(builder, codes, bits)):
                for row in step.rows:
                    inputs = step.input(row, 4 * (code_row * 8 // bits + index), GROUP, INT32, INTS)
                    sums[row] = dot(builder, sums[row], part, inputs)
        weight_scales = load_halves(builder, step.weights, scale_at + 32 * vector, step.features)
        for row in step.rows:
            both = builder.fmul(weight_scales, splat(builder, scales[row], FLOATS))
            step.add(row, vector, builder.sitofp(sums[row], FLOATS), both)
        if has_minimum:
            minima = load_halves(builder, step.weights, scale_at + SCALE_BYTES + 32 * vector, step.features)
            for row in step.rows:
                total = builder.fmul(builder.sitofp(totals[row], FLOAT), scales[row])
                step.add(row, vector, minima, splat(builder, total, FLOATS))


def _group_of_inputs(step: Step, row: int) -> tuple[Any, Any]:
    """The scale and the sum of a group of 8-bit inputs: they follow all of the row's inputs."""
    builder, numbers = step.builder, []
    for per_step, element in ((GROUP, FLOAT), (GROUP + 4, INT32)):
        start = builder.add(step.x[row], builder.mul(step.steps, INT64(per_step)))
        numbers.append(load(builder, builder.add(start, builder.mul(step.index, INT64(4))), element))
    return numbers[0], numbers[1]


def unpacked(builder: Any, codes: Any, bits: int) -> list[Any]:
    """A code row's registers of four codes in 8 bits each: itself, or the lower and the upper halves of its bytes."""
    if bits == 8:
        return [codes]
    low = constant(INTS, 0x0F0F0F0F)
    return [builder.and_(codes, low), builder.and_(builder.lshr(codes, constant(INTS, 4)), low)]


@dataclass(frozen=True)
class TileFormat:
    """A format of weights.

    Attributes:
        vectors: Registers of 16 outputs in a block.
        inputs: Inputs of a step.
        nbytes: Bytes of a step.
        ahead: Distance in bytes between the memory that is read and the memory that is prefetched.
        emit: Emits the code of a step.
        emit_last: Emits the code of a last step with fewer inputs; None where there is none.
    """

    vectors: int
    inputs: int
    nbytes: int
    ahead: int
    emit: Callable[[Step], None]
    emit_last: Callable[[Step], None] | None = None


# Compiled code refers to a format by its number, a literal.
FLOAT32, BFLOAT16, BFLOAT16_32, Q8, Q4, Q41 = range(6)
FORMATS = (
    TileFormat(4, 1, 256, 4096, _float32),
    TileFormat(4, 2, 256, 4096, _bfloat16, _bfloat16_last),
    TileFormat(2, 2, 128, 4096, _bfloat16, _bfloat16_last),
    TileFormat(4, GROUP, 2176, 2176, partial(_quantised, bits=8, zero=128)),
    TileFormat(4, GROUP, 1152, 9216, partial(_quantised, bits=4, zero=8)),
    TileFormat(4, GROUP, 1280, 8960, partial(_quantised, bits=4, has_minimum=True)),
)


@intrinsic(prefer_literal=True)
def multiply_tile(typing_context, number, rows, weights, inputs, x, x_row_bytes, sums):
    """Multiply ``rows`` rows by a block.

    Args:
        number: Of the format; a literal.
        rows: 1 to 4; a literal.
        weights: Address of the block.
        inputs: Of the weight.
        x: Address of the first row: float32, or for quantised weights what ``quantise_inputs`` stored.
        x_row_bytes: From row to row.
        sums: Address of float32 [rows, 64], which are overwritten.
    """
    if not (isinstance(number, types.IntegerLiteral) and isinstance(rows, types.IntegerLiteral)):
        return None
    tile_format, count = FORMATS[number.literal_value], rows.literal_value

    def generate(context, builder, signature, arguments):
        features = context.codegen().magic_tuple()[2]
        x_rows = [builder.add(arguments[4], builder.mul(arguments[5], INT64(row))) for row in range(count)]
        at_once = tile_format.vectors if "+avx512f" in features else max(1, REGISTERS_WITHOUT_AVX512 // count)
        for first in range(0, tile_format.vectors, at_once):
            vectors = range(first, min(first + at_once, tile_format.vectors))
            _emit_pass(builder, tile_format, arguments[2], arguments[3], x_rows, vectors, features, arguments[6])
        return context.get_dummy_value()

    return types.none(number, rows, *[types.int64] * 5), generate


def _emit_pass(builder, tile_format, weights, inputs, x, vectors, features, out):
    """Emit the loop over all steps for some of a block's registers."""
    sums = {(row, vector): cgutils.alloca_once(builder, FLOATS) for row in range(len(x)) for vector in vectors}
    for slot in sums.values():
        builder.store(constant(FLOATS, 0.0), slot)
    steps = builder.udiv(inputs, INT64(tile_format.inputs))

    def step(index):
        address = builder.add(weights, builder.mul(index, INT64(tile_format.nbytes)))
        return Step(builder, address, x, index, steps, sums, features, tile_format)

    with cgutils.for_range(builder, steps) as loop:
        tile_format.emit(step(loop.index))
    if tile_format.emit_last:
        rest = builder.icmp_unsigned("!=", builder.urem(inputs, INT64(tile_format.inputs)), INT64(0))
        with builder.if_then(rest, likely=False):
            tile_format.emit_last(step(steps))
    for (row, vector), slot in sums.items():
        address = offset(builder, out, row * SUMS_ROW_BYTES + vector * LANES * 4)
        store(builder, address, builder.load(slot))
