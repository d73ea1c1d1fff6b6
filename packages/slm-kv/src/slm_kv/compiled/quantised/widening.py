"""Blocks of 8 or 4 bits widened into the memory of a float32 or bfloat16 weight, on the team of threads."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic

from slm_kv.compiled import team
from slm_kv.compiled.addresses import word
from slm_kv.compiled.block_weights import BLOCK, BlockWeight
from slm_kv.compiled.program import StepContext, compile_operation, execute, instruction_matrix
from slm_kv.compiled.tiles import BFLOAT16, BFLOAT16_32, CODE_ROW_BYTES, FLOAT32, FORMATS, GROUP, Q4, Q8, Q41, unpacked
from slm_kv.compiled.tiles import SCALE_BYTES as SCALE_ROW_BYTES
from slm_kv.compiled.vectors import (
    FLOATS,
    INTS,
    constant,
    load,
    load_halves,
    multiply_add,
    offset,
    quiet,
    store,
)

TARGETS = {("float32", 64): FLOAT32, ("bfloat16", 64): BFLOAT16, ("bfloat16", 32): BFLOAT16_32}
BITS = {Q8: 8, Q4: 4, Q41: 4}
ZERO = {Q8: 128.0, Q4: 8.0}


@intrinsic(prefer_literal=True)
def _widen_group(typing_context: Any, number: Any, target: Any, weights: Any, out: Any, half_bytes: Any) -> Any:
    """Widen a group of 32 inputs of a block.

    Args:
        number: Of the format; a literal.
        target: The number of the format to widen to; a literal.
        weights: Address of the group.
        out: Address of its first input or pair of inputs in the target.
        half_bytes: Bytes from the first 32 outputs to the second, in blocks of 32.
    """
    if not (isinstance(number, types.IntegerLiteral) and isinstance(target, types.IntegerLiteral)):
        return None
    source, to = number.literal_value, target.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        features = context.codegen().magic_tuple()[2]
        scales = [_scales(builder, source, arguments[2], vector, features) for vector in range(FORMATS[source].vectors)]
        bits = BITS[source]
        for code_row in range(bits):
            for vector, (scale, low) in enumerate(scales):
                codes = load(builder, offset(builder, arguments[2], CODE_ROW_BYTES * code_row + 64 * vector), INTS)
                for index, part in enumerate(unpacked(builder, codes, bits)):
                    numbers = [multiply_add(builder, _code(builder, part, byte), scale, low) for byte in range(4)]
                    first = 4 * (code_row * 8 // bits + index)
                    _store(builder, to, numbers, first, vector, arguments[3], arguments[4])
        return context.get_dummy_value()

    return types.none(number, target, *[types.int64] * 3), generate


def _scales(builder: Any, source: int, weights: Any, vector: int, features: str) -> tuple[Any, Any]:
    """The scales of 16 outputs, and the numbers of their code 0."""
    at = CODE_ROW_BYTES * BITS[source] + 32 * vector
    scale = quiet(builder, load_halves(builder, weights, at, features))
    if source == Q41:
        return scale, quiet(builder, load_halves(builder, weights, at + SCALE_ROW_BYTES, features))
    return scale, builder.fmul(scale, constant(FLOATS, -ZERO[source]))


def _code(builder: Any, part: Any, byte: int) -> Any:
    shifted = builder.lshr(part, constant(INTS, 8 * byte)) if byte else part
    return builder.sitofp(builder.and_(shifted, constant(INTS, 0xFF)), FLOATS)


def _store(builder: Any, target: int, numbers: list[Any], first: int, vector: int, out: Any, half_bytes: Any) -> None:
    """Store 4 inputs of 16 outputs, as float32 or as pairs of bfloat16 with the first in the lower half."""
    if target == FLOAT32:
        for byte, number in enumerate(numbers):
            store(builder, offset(builder, out, 256 * (first + byte) + 64 * vector), number)
        return
    width = 64 if target == BFLOAT16 else 32
    half, column = divmod(16 * vector, width)
    start = builder.add(out, half_bytes) if half else out
    for pair in range(2):
        low, high = (_rounded(builder, number) for number in numbers[2 * pair : 2 * pair + 2])
        low = builder.lshr(low, constant(INTS, 16))
        word_of_two = builder.or_(low, builder.and_(high, constant(INTS, 0xFFFF0000)))
        store(builder, offset(builder, start, 4 * (width * (first // 2 + pair) + column)), word_of_two)


def _rounded(builder: Any, number: Any) -> Any:
    """The bits of float32, rounded to the nearest bfloat16 in their upper half. A quiet NaN stays one."""
    return builder.add(builder.bitcast(number, INTS), constant(INTS, 0x8000))


@njit(inline="always")
def _widen(number: int, context: int, arguments: int, thread: int, threads: int) -> None:
    """Widen the thread's share of all groups. The arguments are those of ``widen``."""
    weights, block_bytes, group_bytes = word(arguments, 0), word(arguments, 1), word(arguments, 2)
    groups, units = word(arguments, 3), word(arguments, 3) * word(arguments, 4)
    out, out_block_bytes, out_group_bytes = word(arguments, 5), word(arguments, 6), word(arguments, 7)
    half_bytes, target = word(arguments, 8), word(arguments, 9)
    for unit in range(units * thread // threads, units * (thread + 1) // threads):
        block, group = unit // groups, unit % groups
        address = weights + block * block_bytes + group * group_bytes
        to = out + block * out_block_bytes + group * out_group_bytes
        if target == FLOAT32:
            _widen_group(number, FLOAT32, address, to, half_bytes)
        elif target == BFLOAT16:
            _widen_group(number, BFLOAT16, address, to, half_bytes)
        else:
            _widen_group(number, BFLOAT16_32, address, to, half_bytes)


# One function a format, found in numba's cache on disk.


def _q8(context: int, arguments: int, thread: int, threads: int) -> None:
    _widen(Q8, context, arguments, thread, threads)


def _q4(context: int, arguments: int, thread: int, threads: int) -> None:
    _widen(Q4, context, arguments, thread, threads)


def _q41(context: int, arguments: int, thread: int, threads: int) -> None:
    _widen(Q41, context, arguments, thread, threads)


OPERATIONS: dict[str, tuple[Callable[..., None], int]] = {"q8": (_q8, Q8), "q4": (_q4, Q4), "q41": (_q41, Q41)}


def widen(weight: BlockWeight, first: int, end: int, out: BlockWeight) -> None:
    """Overwrite ``out`` with the blocks of 64 outputs from ``first`` to ``end`` - 1.

    Args:
        weight: In q8, q4 or q41.
        first, end: Blocks of it.
        out: A float32 or bfloat16 weight with as many inputs, and memory for so many outputs.
    """
    function, number = OPERATIONS[weight.format]
    in_block = BLOCK // out.width
    out_group_bytes = out.block_bytes // (weight.inputs // GROUP)
    instruction = (
        compile_operation(function).address,
        *(weight.address + first * weight.block_bytes, weight.block_bytes, FORMATS[number].nbytes),
        *(weight.inputs // GROUP, end - first, out.address, in_block * out.block_bytes, out_group_bytes),
        *(out.block_bytes, TARGETS[out.format, out.width]),
    )
    context = np.zeros(StepContext.SIZE, np.int64)
    team.run(execute, context, instruction_matrix([instruction]), torch.get_num_threads())
