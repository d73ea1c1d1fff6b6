"""The factors applied to rows of activations, forward and back, in few passes over memory.

Activations are seen as ``[width, N]``, so that each product of a batch of small matrices runs along rows of N
numbers. The first factor reads ``[N, width]`` as it lies; between factors whole rows move; only the last result is
turned back, into a contiguous tensor: the layer behind it rounds by the layout of its input. (Batched products into a
strided result would save the moves, and fall back to one product at a time.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slm_adapters.butterfly.factors import Factor

PIECE_ROWS, PIECE_NUMBERS = 64, 3 * 2**16  # at least so many rows, and three quarters of a megabyte; measured (LOG.md)

Matrices = Sequence[Tensor]
Factors = Sequence[Factor]


def apply(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """``x`` ``[N, width]`` times each factor in turn, a piece of the rows at a time: on a CPU nothing between the
    factors leaves the processor's cache."""
    pieces = _pieces(x)
    if len(pieces) == 1:
        return _forward(x, matrices, factors).T.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for piece, into in zip(pieces, _pieces(out), strict=True):
        into.copy_(_forward(piece, matrices, factors).T)
    return out


def apply_back(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """The inverse of ``apply``: each factor transposed, the last one first."""
    columns = _columns(x, factors[-1])
    for factor, matrix in zip(reversed(factors), reversed(matrices), strict=True):
        columns = _natural(torch.bmm(matrix.transpose(1, 2), _grouped(columns, factor)), factor)
    return columns.T.contiguous()


def gradients(
    x: Tensor, gradient: Tensor, matrices: Matrices, factors: Factors, needs_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """From the gradient of ``apply``'s result that of ``x``, where needed, and those of the matrices. What lies
    between the factors is made again."""
    of_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs_x else None
    of_matrices = [torch.zeros_like(matrix) for matrix in matrices]
    for piece, of_piece, into in zip(_pieces(x), _pieces(gradient), _pieces(x if of_x is None else of_x), strict=True):
        columns = _backward(piece, of_piece, matrices, factors, of_matrices, needs_x)
        if needs_x:
            into.copy_(columns.T)
    return of_x, of_matrices


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """``x`` ``[N, width]`` in parts of equally many rows (a multiple of 16): a last one of a few rows would be as slow
    as one of many. Whole on a GPU."""
    rows, width = x.shape
    count = -(-rows // max(PIECE_ROWS, PIECE_NUMBERS // width))
    if x.device.type != "cpu" or count < 2:
        return (x,)
    return x.split(-(-rows // (16 * count)) * 16)


def _forward(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """``[width, N]``: ``x`` ``[N, width]`` times each factor in turn."""
    columns = x.T
    for factor, matrix in zip(factors, matrices, strict=True):
        columns = _natural(torch.bmm(matrix, _grouped(columns, factor)), factor)
    return columns


def _backward(
    x: Tensor, gradient: Tensor, matrices: Matrices, factors: Factors, of_matrices: Matrices, needs_x: bool
) -> Tensor:
    """Adds to ``of_matrices``; returns the gradient of ``x`` as ``[width, N]``, where needed."""
    inputs = [_grouped(x.T, factors[0])]
    for at in range(1, len(factors)):
        inputs.append(_grouped(_natural(torch.bmm(matrices[at - 1], inputs[-1]), factors[at - 1]), factors[at]))
    columns = _columns(gradient, factors[-1])
    for at in range(len(factors) - 1, -1, -1):
        groups = _grouped(columns, factors[at])
        of_matrices[at].baddbmm_(groups, inputs[at].transpose(1, 2))
        if at or needs_x:
            columns = _natural(torch.bmm(matrices[at].transpose(1, 2), groups), factors[at])
    return columns


def _columns(x: Tensor, factor: Factor) -> Tensor:
    """``[N, width]`` as ``[width, N]``: a view where the factor's coordinates are neighbours. torch transposes a
    matrix several times faster than it permutes more dimensions."""
    return x.T if factor.below == 1 else x.T.contiguous()


def _grouped(columns: Tensor, factor: Factor) -> Tensor:
    """``[width, N]`` as ``[groups, m, N]``: the coordinates of each group side by side."""
    (width, n), m, below = columns.shape, factor.size, factor.below
    return columns.view(width // (m * below), m, below, n).transpose(1, 2).reshape(width // m, m, n)


def _natural(groups: Tensor, factor: Factor) -> Tensor:
    """``[groups, m, N]`` as ``[width, N]``: every coordinate in its place."""
    (count, m, n), below = groups.shape, factor.below
    return groups.view(count // below, below, m, n).transpose(1, 2).reshape(count * m, n)
