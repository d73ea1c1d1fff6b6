"""Prefetching memory into the cache from compiled code.

A CPU's own prefetcher follows sequential reads to the end of a 4 kB page of memory, but no scattered reads.
"""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

CACHE_LINE = 64  # bytes
READ, KEEP_IN_ALL_LEVELS, DATA = 0, 3, 1  # the arguments of llvm.prefetch: rw, locality, cache type


@intrinsic
def prefetch(typing_context, flat, index):
    """Prefetch element ``index`` of the contiguous 1-d array ``flat``. An index outside of it is harmless."""
    if not (isinstance(flat, types.Array) and flat.ndim == 1 and flat.layout == "C"):
        return None

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte_pointer = ir.IntType(8).as_pointer()
        int32 = ir.IntType(32)
        address = builder.bitcast(builder.gep(start, [arguments[1]]), byte_pointer)
        function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, int32, int32, int32])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
        builder.call(function, [address, int32(READ), int32(KEEP_IN_ALL_LEVELS), int32(DATA)])

    return types.void(flat, types.int64), generate


@njit(inline="always")
def prefetch_run(flat, first, count):
    """Prefetch ``count`` elements of ``flat``, beginning with ``first``, one cache line at a time."""
    for element in range(first, first + count, CACHE_LINE // flat.itemsize):
        prefetch(flat, element)
