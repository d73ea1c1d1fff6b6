"""``prefetch`` for compiled code: have memory brought to the cache before it is read.

A CPU foresees what follows in order, up to the end of a page of its own, 4 kB; what is scattered it does not.
"""

# numba reads the signatures, and takes no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LINE = 64  # bytes
READ, NEAR, DATA = 0, 3, 1  # the arguments of LLVM's prefetch


@intrinsic
def prefetch(typing_context, flat, index):
    """Element ``index`` of the array ``flat``, of one dimension and in one piece. An index outside of it does no
    harm."""
    if not (isinstance(flat, types.Array) and flat.ndim == 1 and flat.layout == "C"):
        return None

    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte = ir.IntType(8).as_pointer()
        number = ir.IntType(32)
        address = builder.bitcast(builder.gep(start, [arguments[1]]), byte)
        function = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        called = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
        builder.call(called, [address, number(READ), number(NEAR), number(DATA)])

    return types.void(flat, types.int64), generate


@njit(inline="always")
def prefetch_run(flat, first, count):
    """``count`` elements of ``flat`` from ``first`` on, a line of the cache at a time."""
    for element in range(first, first + count, LINE // flat.itemsize):
        prefetch(flat, element)
