"""Memory by address in compiled code: loads, arrays, atomic counters, and calls of compiled operations."""

# numba reads the signatures, and accepts no annotations in them.
# mypy: disallow-untyped-defs=False, disallow-untyped-decorators=False

from __future__ import annotations

import platform

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

INT64 = ir.IntType(64)
IS_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


def _pointer_at(numba_type, llvm_type):
    """An intrinsic: the typed pointer of an address, which ``numba.carray`` makes an array of."""

    def pointer(typing_context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], llvm_type.as_pointer())

        return types.CPointer(numba_type)(types.int64), generate

    return intrinsic(pointer)


int8_at = _pointer_at(types.int8, ir.IntType(8))
float32_at = _pointer_at(types.float32, ir.FloatType())
uint16_at = _pointer_at(types.uint16, ir.IntType(16))
int32_at = _pointer_at(types.int32, ir.IntType(32))
int64_at = _pointer_at(types.int64, INT64)


@intrinsic
def word(typing_context, address, index):
    """The int64 number ``index`` of those at ``address``."""

    def generate(context, builder, signature, arguments):
        start = builder.inttoptr(arguments[0], INT64.as_pointer())
        return builder.load(builder.gep(start, [arguments[1]]))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def call_operation(typing_context, operation, context, arguments, thread, threads):
    """Call the operation at address ``operation``."""

    def generate(numba_context, builder, signature, values):
        function_type = ir.FunctionType(ir.VoidType(), [INT64] * 4)
        builder.call(builder.inttoptr(values[0], function_type.as_pointer()), values[1:])
        return numba_context.get_dummy_value()

    return types.none(*[types.int64] * 5), generate


@intrinsic
def atomic_add(typing_context, address, number):
    """Add ``number`` to the int64 at ``address`` and return what it was before."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], INT64.as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def atomic_load(typing_context, address):
    """The int64 at ``address``, with all that other threads wrote before they changed it."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], INT64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def pause(typing_context):
    """Tell an x86 CPU that this is a waiting loop; nothing on others."""

    def generate(context, builder, signature, arguments):
        if IS_X86:
            function_type = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def yield_core(typing_context):
    """Let another thread run on this core, where the operating system has ``sched_yield``; nothing elsewhere."""

    def generate(context, builder, signature, arguments):
        if binding.address_of_symbol("sched_yield"):
            function_type = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function_type, "sched_yield"), [])
        return context.get_dummy_value()

    return types.none(), generate
