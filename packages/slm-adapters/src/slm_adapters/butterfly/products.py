"""Application of the factors to rows of activations, forward and backward, in few passes over memory.

Activations are viewed as ``[width, N]``, so that the products with small matrices run along rows of N numbers. The
first factor reads ``[N, width]`` without a copy, whole rows are moved between factors, and only the last result is
transposed, into a contiguous tensor. It must be contiguous because the rounding of the next layer's product depends on
the layout of its input, and with angles of zero the output must not change in any bit. (``torch.bmm`` with a strided
``out`` would avoid the moves, but computes one product at a time.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slm_adapters.butterfly.composition import Factor

# A piece has at least 64 rows and about 3 * 2**16 numbers, 0.75 MB in float32, so that it stays in the CPU's cache
# between factors: 21 ms instead of 30 ms for 1,024 x 768 in blocks of 256 (AMD EPYC with AVX2, one thread).
PIECE_ROWS, PIECE_NUMBERS = 64, 3 * 2**16

Matrices = Sequence[Tensor]
Factors = Sequence[Factor]


def apply(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """Multiply ``x`` ``[N, width]`` by each factor in turn. On a CPU the rows are processed in pieces."""
    pieces = _pieces(x)
    if len(pieces) == 1:
        return _forward(x, matrices, factors).T.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for piece, out_piece in zip(pieces, _pieces(out), strict=True):
        out_piece.copy_(_forward(piece, matrices, factors).T)
    return out


def apply_back(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """Apply the inverse of ``apply``: the transpose of each factor, the last one first."""
    columns = _columns(x, factors[-1])
    for factor, matrix in zip(reversed(factors), reversed(matrices), strict=True):
        columns = _ungrouped(torch.bmm(matrix.transpose(1, 2), _grouped(columns, factor)), factor)
    return columns.T.contiguous()


def gradients(
    x: Tensor, gradient: Tensor, matrices: Matrices, factors: Factors, needs_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the gradients of ``x`` (None unless ``needs_x``) and of the matrices, from that of ``apply``'s result.

    Intermediate activations are recomputed, not stored.
    """
    x_gradient = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs_x else None
    matrix_gradients = [torch.zeros_like(matrix) for matrix in matrices]
    out_pieces = _pieces(x if x_gradient is None else x_gradient)
    for piece, gradient_piece, out_piece in zip(_pieces(x), _pieces(gradient), out_pieces, strict=True):
        columns = _backward(piece, gradient_piece, matrices, factors, matrix_gradients, needs_x)
        if needs_x:
            out_piece.copy_(columns.T)
    return x_gradient, matrix_gradients


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """Split the rows of ``x`` ``[N, width]`` into pieces of equal size, a multiple of 16; one piece on a GPU.

    They have equal size because a last piece of one row took as long as a full one.
    """
    rows, width = x.shape
    count = -(-rows // max(PIECE_ROWS, PIECE_NUMBERS // width))
    if x.device.type != "cpu" or count < 2:
        return (x,)
    return x.split(-(-rows // (16 * count)) * 16)


def _forward(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """Return ``x`` ``[N, width]`` times each factor in turn, as ``[width, N]``."""
    columns = x.T
    for factor, matrix in zip(factors, matrices, strict=True):
        columns = _ungrouped(torch.bmm(matrix, _grouped(columns, factor)), factor)
    return columns


def _backward(
    x: Tensor, gradient: Tensor, matrices: Matrices, factors: Factors, matrix_gradients: Matrices, needs_x: bool
) -> Tensor:
    """Add to ``matrix_gradients`` in place, and return the gradient of ``x`` as ``[width, N]`` if ``needs_x``."""
    inputs = [_grouped(x.T, factors[0])]
    for index in range(1, len(factors)):
        product = torch.bmm(matrices[index - 1], inputs[-1])
        inputs.append(_grouped(_ungrouped(product, factors[index - 1]), factors[index]))
    columns = _columns(gradient, factors[-1])
    for index in range(len(factors) - 1, -1, -1):
        groups = _grouped(columns, factors[index])
        matrix_gradients[index].baddbmm_(groups, inputs[index].transpose(1, 2))
        if index or needs_x:
            columns = _ungrouped(torch.bmm(matrices[index].transpose(1, 2), groups), factors[index])
    return columns


def _columns(x: Tensor, factor: Factor) -> Tensor:
    """Return ``x`` ``[N, width]`` as ``[width, N]``: a view if the factor's coordinates are adjacent, else a copy.

    A copy permuted in three dimensions takes 3 to 5 times as long as a transposed one in two (AMD EPYC with AVX2).
    """
    return x.T if factor.stride == 1 else x.T.contiguous()


def _grouped(columns: Tensor, factor: Factor) -> Tensor:
    """Return ``[width, N]`` as ``[groups, m, N]``: the coordinates of each group next to each other."""
    (width, n), m, stride = columns.shape, factor.size, factor.stride
    return columns.view(width // (m * stride), m, stride, n).transpose(1, 2).reshape(width // m, m, n)


def _ungrouped(groups: Tensor, factor: Factor) -> Tensor:
    """Return ``[groups, m, N]`` as ``[width, N]``: the inverse of ``_grouped``."""
    (count, m, n), stride = groups.shape, factor.stride
    return groups.view(count // stride, stride, m, n).transpose(1, 2).reshape(count * m, n)
