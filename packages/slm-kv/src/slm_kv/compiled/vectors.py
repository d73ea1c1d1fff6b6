"""LLVM instructions on registers of 16 numbers, for code that is emitted as LLVM's intermediate representation.

LLVM splits the registers on CPUs whose own are smaller. Where a CPU has an instruction that LLVM does not select by
itself, it is called by name, if the target that numba compiles for has it.
"""

# numba's builders are untyped.
# mypy: disallow-untyped-defs=False

from __future__ import annotations

from functools import partial

from llvmlite import ir
from numba.core import cgutils

LANES = 16
FLOAT, HALF = ir.FloatType(), ir.HalfType()
INT8, INT16, INT32, INT64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOATS, HALVES, INTS = (ir.VectorType(element, LANES) for element in (FLOAT, HALF, INT32))
SHORTS = ir.VectorType(INT16, 2 * LANES)
READ, KEEP_IN_ALL_LEVELS, DATA = 0, 3, 1  # the arguments of llvm.prefetch: rw, locality, cache type
CACHE_LINE = 64


def constant(vector, number):
    """A register with ``number`` in each lane."""
    return ir.Constant(vector, [number] * vector.count)


def load(builder, address, element, align=4):
    """The ``element``, a scalar or vector type, at ``address``."""
    return builder.load(builder.inttoptr(address, element.as_pointer()), align=align)


def store(builder, address, value, align=4):
    """Store ``value`` at ``address``."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def offset(builder, address, nbytes):
    """``address`` plus a constant number of bytes."""
    return builder.add(address, INT64(nbytes)) if nbytes else address


def splat(builder, scalar, vector):
    """A register with ``scalar`` in each lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, INT32(0))
    return builder.shuffle_vector(first, undefined, constant(ir.VectorType(INT32, vector.count), 0))


def call(builder, name, result, arguments):
    """Call an LLVM intrinsic."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def multiply_add(builder, x, y, z):
    """``x * y + z``, in one instruction where the CPU has it."""
    return call(builder, "llvm.fmuladd.v16f32", FLOATS, [x, y, z])


def prefetch(builder, address):
    """Prefetch the cache line at ``address``. An address outside of any memory is harmless."""
    pointer = builder.inttoptr(address, INT8.as_pointer())
    hints = [INT32(READ), INT32(KEEP_IN_ALL_LEVELS), INT32(DATA)]
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, *hints])


def load_halves(builder, address, nbytes, features):
    """Load 16 finite float16 numbers as float32; by arithmetic on their bits where LLVM would call a library."""
    address = offset(builder, address, nbytes)
    if "+f16c" in features:
        return builder.fpext(load(builder, address, HALVES, 2), FLOATS)
    bits = builder.zext(load(builder, address, ir.VectorType(INT16, LANES), 2), INTS)
    sign = builder.shl(builder.and_(bits, constant(INTS, 0x8000)), constant(INTS, 16))
    magnitude = builder.shl(builder.and_(bits, constant(INTS, 0x7FFF)), constant(INTS, 13))
    number = builder.fmul(builder.bitcast(magnitude, FLOATS), constant(FLOATS, 2.0**112))  # the exponents' difference
    return builder.bitcast(builder.or_(builder.bitcast(number, INTS), sign), FLOATS)


def quiet(builder, floats):
    """Replace NaNs by the one whose bits stay a NaN if they are rounded."""
    is_nan = builder.fcmp_unordered("uno", floats, floats)
    return builder.select(is_nan, constant(FLOATS, float("nan")), floats)


def dot_product(features):
    """Return ``dot(builder, sums, unsigned, signed)``: add the exact products of 4 bytes a lane to int32 sums."""
    return _dot_by_vnni if "+avx512vnni" in features else _dot_by_shorts


def _dot_by_vnni(builder, sums, unsigned, signed):
    return call(builder, "llvm.x86.avx512.vpdpbusd.512", INTS, [sums, unsigned, signed])


def _dot_by_shorts(builder, sums, unsigned, signed):
    """Products of 16-bit numbers: vpmaddubsw would be shorter, but saturates sums of two products of 8-bit numbers."""
    eight, low = constant(SHORTS, 8), constant(SHORTS, 0xFF)
    unsigned, signed = builder.bitcast(unsigned, SHORTS), builder.bitcast(signed, SHORTS)
    even = _pairs(builder, builder.and_(unsigned, low), builder.ashr(builder.shl(signed, eight), eight))
    odd = _pairs(builder, builder.lshr(unsigned, eight), builder.ashr(signed, eight))
    return builder.add(sums, builder.add(even, odd))


def _pairs(builder, x, y):
    """Sums of two neighbouring 16-bit products. LLVM recognises the pattern and selects vpmaddwd on x86."""
    wide = ir.VectorType(INT32, 2 * LANES)
    products = builder.mul(builder.sext(x, wide), builder.sext(y, wide))
    every_second = partial(_every_second, builder, products)
    return builder.add(every_second(0), every_second(1))


def _every_second(builder, vector, first):
    lanes = ir.Constant(INTS, list(range(first, 2 * LANES, 2)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), lanes)
