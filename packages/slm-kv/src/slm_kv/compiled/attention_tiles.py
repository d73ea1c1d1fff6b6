"""Tiles of attention: scores of 1 to 4 heads that share their keys, and the heads' weighted sums of values.

Keys and values are read once for all heads of a tile. Pages are scattered and a CPU's own prefetcher cannot predict
them, so memory of later tokens is prefetched.

Shapes: N heads, T tokens, D dimensions of a head, a multiple of 16.
"""

# numba's builders are untyped.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from slm_kv.compiled.vectors import (
    CACHE_LINE,
    FLOAT,
    FLOATS,
    INT16,
    INT32,
    INT64,
    INTS,
    LANES,
    constant,
    load,
    multiply_add,
    offset,
    prefetch,
    splat,
    store,
)

MAX_TILE_HEADS = 4
HEADS_WITHOUT_AVX512 = 1  # in one pass: LLVM makes two or four smaller ones of each register
QUAD = 4  # tokens whose scores are computed together
AHEAD = 32  # tokens between the one that is read and the one that is prefetched; ``offsets`` has as many more
UNROLLED = 4  # registers of a head's dimensions that are read one after the other
REGISTER_BYTES = 64


@dataclass
class Tokens:
    """Where the keys or values of one head are.

    Attributes:
        itemsize: Bytes of an element, 4 for float32, 2 for bfloat16.
        offsets: Address of the int64 offsets in bytes of the tokens from ``start``.
        start: Address of the head in the first slot of the pages.
    """

    builder: Any
    itemsize: int
    offsets: Any
    start: Any

    def address(self, token: Any, ahead: int = 0) -> Any:
        """The address of the token ``ahead`` of ``token``."""
        at = self.builder.add(self.offsets, self.builder.mul(self.builder.add(token, INT64(ahead)), INT64(8)))
        return self.builder.add(self.start, load(self.builder, at, INT64, 8))

    def load(self, address: Any, register: int) -> Any:
        """16 numbers as float32, ``register`` registers after ``address``."""
        address = offset(self.builder, address, register * LANES * self.itemsize)
        if self.itemsize == 4:
            return load(self.builder, address, FLOATS)
        shorts = load(self.builder, address, ir.VectorType(INT16, LANES), 2)
        bits = self.builder.shl(self.builder.zext(shorts, INTS), constant(INTS, 16))
        return self.builder.bitcast(bits, FLOATS)

    def prefetch(self, address: Any, register: int) -> None:
        """Prefetch the cache line that begins with ``register``, if one does."""
        nbytes = register * LANES * self.itemsize
        if nbytes % CACHE_LINE == 0:
            prefetch(self.builder, offset(self.builder, address, nbytes))


def _registers(builder, dim, emit):
    """Emit loops over the registers of a head: ``emit(first, count)`` for ``UNROLLED`` at once, then one by one."""
    total = builder.udiv(dim, INT64(LANES))
    whole = builder.mul(builder.udiv(total, INT64(UNROLLED)), INT64(UNROLLED))
    for begin, end, count in ((INT64(0), whole, UNROLLED), (whole, total, 1)):
        with cgutils.for_range_slice(builder, begin, end, INT64(count)) as (first, _):
            emit(first, count)


def _zeros(builder, keys):
    slots = {key: cgutils.alloca_once(builder, FLOATS) for key in keys}
    for slot in slots.values():
        builder.store(constant(FLOATS, 0.0), slot)
    return slots


def _add(builder, slot, x, y):
    builder.store(multiply_add(builder, x, y, builder.load(slot)), slot)


def _bytes(builder, first, nbytes):
    return builder.mul(first, INT64(nbytes))


def _shuffle(builder, x, y, lanes):
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))


def _merge(builder, x, y, low, high):
    """Add the lanes ``low`` of two registers of 16 numbers, in each of their quarters, to the lanes ``high``."""
    lanes = [[4 * quarter + lane for quarter in range(4) for lane in half] for half in (low, high)]
    return builder.fadd(_shuffle(builder, x, y, lanes[0]), _shuffle(builder, x, y, lanes[1]))


def _quad_sums(builder, registers):
    """The sums of four registers' lanes, as one register of four numbers."""
    second = 4 * 4  # the number of the second operand's first lane
    first, last = (
        _merge(builder, x, y, (0, second, 1, second + 1), (2, second + 2, 3, second + 3))
        for x, y in (registers[:2], registers[2:])
    )
    quarters = _merge(builder, first, last, (0, 1, second, second + 1), (2, 3, second + 2, second + 3))
    half = builder.fadd(
        _shuffle(builder, quarters, quarters, list(range(8))), _shuffle(builder, quarters, quarters, list(range(8, 16)))
    )
    return builder.fadd(_shuffle(builder, half, half, list(range(4))), _shuffle(builder, half, half, list(range(4, 8))))


def _emit_scores(builder, heads, keys, tokens, queries, dim, scores, row_bytes):
    quads = builder.udiv(tokens, INT64(QUAD))
    with cgutils.for_range(builder, quads) as loop:
        token = builder.mul(loop.index, INT64(QUAD))
        addresses = [keys.address(builder.add(token, INT64(k))) for k in range(QUAD)]
        later = [keys.address(builder.add(token, INT64(k)), AHEAD) for k in range(QUAD)]
        sums = _zeros(builder, [(head, k) for head in heads for k in range(QUAD)])

        def add(first, count):
            at = _bytes(builder, first, LANES * keys.itemsize)
            for register in range(count):
                q = {}
                for head in heads:
                    row = builder.add(queries, builder.mul(dim, INT64(4 * head)))
                    q[head] = load(
                        builder,
                        offset(
                            builder,
                            builder.add(row, _bytes(builder, first, REGISTER_BYTES)),
                            REGISTER_BYTES * register,
                        ),
                        FLOATS,
                    )
                for k in range(QUAD):
                    keys.prefetch(builder.add(later[k], at), register)
                    key = keys.load(builder.add(addresses[k], at), register)
                    for head in heads:
                        _add(builder, sums[head, k], q[head], key)

        _registers(builder, dim, add)
        for head in heads:
            out = builder.add(builder.add(scores, builder.mul(row_bytes, INT64(head))), _bytes(builder, token, 4))
            store(builder, out, _quad_sums(builder, [builder.load(sums[head, k]) for k in range(QUAD)]))


def _emit_sums(builder, heads, values, tokens, weights, row_bytes, dim, out):
    def columns(first, count):
        sums = _zeros(builder, [(head, register) for head in heads for register in range(count)])
        at = _bytes(builder, first, LANES * values.itemsize)
        with cgutils.for_range(builder, tokens) as loop:
            address = builder.add(values.address(loop.index), at)
            later = builder.add(values.address(loop.index, AHEAD), at)
            row = builder.add(weights, _bytes(builder, loop.index, 4))
            w = {
                head: splat(
                    builder, load(builder, builder.add(row, builder.mul(row_bytes, INT64(head))), FLOAT), FLOATS
                )
                for head in heads
            }
            for register in range(count):
                values.prefetch(later, register)
                value = values.load(address, register)
                for head in heads:
                    _add(builder, sums[head, register], w[head], value)
        for (head, register), slot in sums.items():
            row = builder.add(out, builder.mul(dim, INT64(4 * head)))
            to = offset(builder, builder.add(row, _bytes(builder, first, REGISTER_BYTES)), REGISTER_BYTES * register)
            store(builder, to, builder.load(slot))

    _registers(builder, dim, columns)


def _tile(heads, itemsize, emit):
    """The code of a tile of literally ``heads`` heads, in as many passes as there are registers for."""
    count, nbytes = heads.literal_value, itemsize.literal_value

    def generate(context, builder, signature, arguments):
        features = context.codegen().magic_tuple()[2]
        at_once = count if "+avx512f" in features else HEADS_WITHOUT_AVX512
        offsets, tokens, start, *rest = arguments[2:]
        for first in range(0, count, at_once):
            emit(
                builder,
                range(first, min(first + at_once, count)),
                Tokens(builder, nbytes, offsets, start),
                tokens,
                *rest,
            )
        return context.get_dummy_value()

    return types.none(heads, itemsize, *[types.int64] * 7), generate


def _are_literal(*numbers):
    return all(isinstance(number, types.IntegerLiteral) for number in numbers)


@intrinsic(prefer_literal=True)
def score_tile(typing_context, heads, itemsize, offsets, tokens, keys, queries, dim, scores, row_bytes):
    """Write the products of queries and keys.

    Args:
        heads: N, a literal from 1 to 4.
        itemsize: Bytes of a key's element, a literal.
        offsets: Address of int64 [T + ``AHEAD``]: of the tokens' keys from ``keys``.
        tokens: T, a multiple of 4.
        keys: Address of the head in the first slot of the pages.
        queries: Address of float32 [N, D].
        dim: D.
        scores: Address of float32 [N, >= T].
        row_bytes: From head to head of the scores.
    """
    return _tile(heads, itemsize, _emit_scores) if _are_literal(heads, itemsize) else None


@intrinsic(prefer_literal=True)
def sum_tile(typing_context, heads, itemsize, offsets, tokens, values, weights, row_bytes, dim, out):
    """Write the sums of values by ``weights``, float32 [N, >= T], to ``out``, float32 [N, D].

    The other arguments are those of ``score_tile``.
    """
    return _tile(heads, itemsize, _emit_sums) if _are_literal(heads, itemsize) else None


@intrinsic(prefer_literal=True)
def number_at(typing_context, itemsize, address):
    """The element at ``address`` as float32; ``itemsize`` is a literal."""
    if not _are_literal(itemsize):
        return None

    def generate(context, builder, signature, arguments):
        if itemsize.literal_value == 4:
            return load(builder, arguments[1], FLOAT)
        bits = builder.shl(builder.zext(load(builder, arguments[1], INT16, 2), INT32), INT32(16))
        return builder.bitcast(bits, FLOAT)

    return types.float32(itemsize, types.int64), generate
