"""Products of a few rows and a packed weight, as compiled operations.

With few rows the speed is limited by reading the weight: each thread reads its share of the blocks once, and multiplies
all rows by a block while it is in the cache. Weights that share their input (queries, keys and values) are divided
among the threads as one list of blocks.

Shapes: R rows, I inputs, O outputs.
"""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from slm_kv.compiled import team
from slm_kv.compiled.addresses import float32_at, word
from slm_kv.compiled.block_weights import BLOCK, BlockWeight
from slm_kv.compiled.program import (
    MAX_ROWS,
    ROWS,
    Buffer,
    Instruction,
    StepContext,
    compile_operation,
    execute,
    instruction_matrix,
)
from slm_kv.compiled.quantised.inputs import quantise_inputs, quantised_width, subtract_rounded
from slm_kv.compiled.tiles import (
    BFLOAT16,
    BFLOAT16_32,
    FLOAT32,
    GROUP,
    MAX_TILE_ROWS,
    Q4,
    Q8,
    Q41,
    SUMS_ROW_BYTES,
    multiply_tile,
)


@njit(inline="always")
def _write(sums: np.ndarray, rows: int, out: int, out_row_bytes: int, bias: int, columns: int) -> None:
    """Write ``sums`` [4, 64] plus the bias to ``out``; ``bias`` is an address, 0 for none."""
    for row in range(rows):
        to = carray(float32_at(out + row * out_row_bytes), (columns,))
        if bias:
            added = carray(float32_at(bias), (columns,))
            for column in range(columns):
                to[column] = sums[row, column] + added[column]
        else:
            for column in range(columns):
                to[column] = sums[row, column]


@njit(inline="always")
def _multiply(tile_format: int, width: int, context: int, arguments: int, thread: int, threads: int) -> None:
    """Multiply all rows by the thread's share of the blocks. The arguments are those of ``_part``."""
    rows = word(context, ROWS)
    x, x_row_bytes = word(arguments, 0) + thread * word(arguments, 2), word(arguments, 1)
    out, out_row_bytes = word(arguments, 3) + thread * word(arguments, 5), word(arguments, 4)
    bias, weights, block_bytes = word(arguments, 6), word(arguments, 7), word(arguments, 8)
    outputs, inputs = word(arguments, 9), word(arguments, 10)
    first_unit, units = word(arguments, 11), word(arguments, 12)
    begin = max(0, units * thread // threads - first_unit) * BLOCK
    end = min(outputs, (units * (thread + 1) // threads - first_unit) * BLOCK)
    tiles = (rows + MAX_TILE_ROWS - 1) // MAX_TILE_ROWS
    sums = np.empty((MAX_TILE_ROWS, SUMS_ROW_BYTES // 4), np.float32)
    to = sums.ctypes.data
    for column in range(begin, end, width):
        block = weights + column // width * block_bytes
        for tile in range(tiles):
            row = rows * tile // tiles
            count = rows * (tile + 1) // tiles - row
            x_rows = x + row * x_row_bytes
            if count == 1:
                multiply_tile(tile_format, 1, block, inputs, x_rows, x_row_bytes, to)
            elif count == 2:
                multiply_tile(tile_format, 2, block, inputs, x_rows, x_row_bytes, to)
            elif count == 3:
                multiply_tile(tile_format, 3, block, inputs, x_rows, x_row_bytes, to)
            else:
                multiply_tile(tile_format, 4, block, inputs, x_rows, x_row_bytes, to)
            added = bias + column * 4 if bias else 0
            _write(sums, count, out + row * out_row_bytes + column * 4, out_row_bytes, added, min(width, end - column))


# One function a format, so that only formats in use are compiled, and found in numba's cache on disk.


def _float32(context: int, arguments: int, thread: int, threads: int) -> None:
    _multiply(FLOAT32, 64, context, arguments, thread, threads)


def _bfloat16(context: int, arguments: int, thread: int, threads: int) -> None:
    _multiply(BFLOAT16, 64, context, arguments, thread, threads)


def _bfloat16_32(context: int, arguments: int, thread: int, threads: int) -> None:
    _multiply(BFLOAT16_32, 32, context, arguments, thread, threads)


def _q8(context: int, arguments: int, thread: int, threads: int) -> None:
    _multiply(Q8, 64, context, arguments, thread, threads)


def _q4(context: int, arguments: int, thread: int, threads: int) -> None:
    _multiply(Q4, 64, context, arguments, thread, threads)


def _q41(context: int, arguments: int, thread: int, threads: int) -> None:
    _multiply(Q41, 64, context, arguments, thread, threads)


OPERATIONS: dict[tuple[str, int], Callable[..., None]] = {
    ("float32", 64): _float32,
    ("bfloat16", 64): _bfloat16,
    ("bfloat16", 32): _bfloat16_32,
    ("q8", 64): _q8,
    ("q4", 64): _q4,
    ("q41", 64): _q41,
}
ROWS_WITH_AMX = 20  # of quantised weights
QUANTISED = ("q8", "q4", "q41")  # formats that multiply inputs in 8 bits


def product(
    parts: Sequence[tuple[BlockWeight, int]],
    x: Buffer,
    out: Buffer,
    *,
    bias: np.ndarray | None = None,
    scratch: Buffer | None = None,
) -> list[Instruction]:
    """Return the instructions for ``out = x @ weight.T + bias``.

    A thread that reads columns of ``out`` besides its own share of the blocks of 64 needs a barrier first.

    Args:
        parts: Weights with the same inputs, and the first column of ``out`` for each.
        x: Float32 [R, I].
        out: Float32 [R, columns].
        bias: Float32 [columns], which must outlive the program; None for none.
        scratch: A private buffer of ``quantised_width(I)`` columns. Weights in 8 or 4 bits require it.

    Raises:
        ValueError: a weight in 8 or 4 bits has no scratch, or inputs that are not divisible by 32.
    """
    units = sum(-(-weight.outputs // BLOCK) for weight, _ in parts)
    instructions: list[Instruction] = []
    first_unit, read = 0, x
    if any(weight.format in QUANTISED for weight, _ in parts):
        inputs = parts[0][0].inputs
        if scratch is None or inputs % GROUP:
            raise ValueError(f"Weights in 8 or 4 bits need scratch and inputs divisible by {GROUP}, not {inputs}")
        instructions.append((compile_operation(quantise_inputs).address, *x.words, *scratch.words, inputs))
        read = scratch
    for weight, column in parts:
        address = 0 if bias is None else bias.ctypes.data + 4 * column
        own = read if weight.format in QUANTISED else x
        instructions.append(_part(weight, own, out.columns(column, weight.outputs), address, first_unit, units))
        first_unit += -(-weight.outputs // BLOCK)
    return instructions


def remainder(x: Buffer, scratch: Buffer, out: Buffer, inputs: int) -> Instruction:
    """Return the instruction for what rounding to 8 bits took from ``x``, after a product that left it in ``scratch``.

    A product with the remainder corrects the one with ``x``; a second one makes it as exact as float32.

    Args:
        x: The input of the product.
        scratch: That of the product.
        out: A private buffer of I columns; it may be ``x``.
        inputs: I.
    """
    return (compile_operation(subtract_rounded).address, *x.words, *scratch.words, inputs, *out.words)


def _part(weight: BlockWeight, x: Buffer, out: Buffer, bias: int, first_unit: int, units: int) -> Instruction:
    operation = compile_operation(OPERATIONS[weight.format, weight.width]).address
    shape = (weight.block_bytes, weight.outputs, weight.inputs)
    return (operation, *x.words, *out.words, bias, weight.address, *shape, first_unit, units)


def multiply(x: Tensor, weight: BlockWeight, bias: np.ndarray | None = None) -> Tensor:
    """Multiply [..., I] by a packed weight to [..., O], on the team of threads.

    Args:
        x: At least one row; float32 or bfloat16, which is also the result's.
        weight: The weight.
        bias: Float32 [O]; None for none.
    """
    rows = x.reshape(-1, weight.inputs).float().contiguous()
    out, threads = torch.empty(len(rows), weight.outputs), torch.get_num_threads()
    context = np.zeros(StepContext.SIZE, np.int64)
    context[StepContext.ROWS] = len(rows)
    scratch = None
    if weight.format in QUANTISED:
        memory = torch.empty(threads, len(rows), quantised_width(weight.inputs))
        scratch = Buffer(memory.data_ptr(), *(4 * stride for stride in memory.stride()[1::-1]))
    x_buffer, out_buffer = (Buffer(t.data_ptr(), 4 * t.shape[1], 0, t.shape[1]) for t in (rows, out))
    instructions = product([(weight, 0)], x_buffer, out_buffer, bias=bias, scratch=scratch)
    team.run(execute, context, instruction_matrix(instructions), threads)
    return out.to(x.dtype).view(*x.shape[:-1], weight.outputs)


def max_rows(weight: BlockWeight) -> int:
    """Rows up to which ``multiply`` is faster than oneDNN; 0 in bfloat16 on a CPU with AMX, where oneDNN is as fast.

    Quantised weights have to be widened for oneDNN. With AMX its product of 32 rows then takes less (290 against 350
    microseconds for 576 x 1,536), of 16 rows more (266 against 187).
    """
    if weight.format in QUANTISED:
        return ROWS_WITH_AMX if torch.cpu._is_amx_tile_supported() else MAX_ROWS
    return 8 if weight.width == BLOCK else 0
