"""RMSNorm and LayerNorm."""

# In compiled functions the annotation ``int`` stands for int64, also for an address.
# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import numpy as np
from numba import cfunc

from slm_kv.compiled.addresses import word
from slm_kv.compiled.operations.shares import address_of, float_of, floats_at, row_at
from slm_kv.compiled.program import OPERATION_OPTIONS, ROWS, SIGNATURE, Buffer, Instruction, float_bits


def normalise(
    x: Buffer, out: Buffer, *, weight: np.ndarray | None, bias: np.ndarray | None = None, eps: float, center: bool
) -> Instruction:
    """Normalise rows of ``x`` [R, width] to the private buffer ``out``: each thread all rows.

    ``center`` subtracts the mean (LayerNorm); without it this is RMSNorm. The program must keep ``weight`` and
    ``bias`` [width] alive.
    """
    return (
        _normalise.address,
        *x.words,
        *out.words,
        x.width,
        address_of(weight),
        address_of(bias),
        float_bits(eps),
        int(center),
    )


@cfunc(SIGNATURE, **OPERATION_OPTIONS)
def _normalise(context: int, arguments: int, thread: int, threads: int) -> None:
    width, weights, biases = word(arguments, 6), word(arguments, 7), word(arguments, 8)
    eps, center = float_of(word(arguments, 9)), word(arguments, 10)
    weight, bias = floats_at(weights, width), floats_at(biases, width)
    for row in range(word(context, ROWS)):
        x, out = row_at(arguments, 0, row, thread, width), row_at(arguments, 3, row, thread, width)
        mean, total = np.float32(0.0), np.float32(0.0)
        if center:
            for i in range(width):
                mean += x[i]
            mean /= np.float32(width)
        for i in range(width):
            total += (x[i] - mean) * (x[i] - mean)
        factor = np.float32(1.0) / np.sqrt(total / np.float32(width) + eps)
        if weights:
            for i in range(width):
                out[i] = (x[i] - mean) * factor * weight[i]
        else:
            for i in range(width):
                out[i] = (x[i] - mean) * factor
        if biases:
            for i in range(width):
                out[i] += bias[i]
