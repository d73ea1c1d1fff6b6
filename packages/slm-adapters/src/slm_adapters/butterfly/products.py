"""Application of the factors to rows of activations, forward and backward, in few passes over memory.

A factor reads activations as groups ``[G, N, m]``: for each group the N rows of its m coordinates. The first factor
reads ``[N, width]`` without a copy. Activations are copied between factors and at the end, into a contiguous tensor. It
must be contiguous because the rounding of the next layer's product depends on the layout of its input, and with angles
of zero the output must not change in any bit. (``torch.bmm`` with a strided ``out`` would avoid the copies, but
computes one product at a time.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slm_adapters.butterfly.composition import Factor

# A piece has at least 64 rows and about 2**20 numbers, 4 MB in float32. Smaller ones would stay in the CPU's cache
# between factors, but each takes as many operations as the whole.
PIECE_ROWS, PIECE_NUMBERS = 64, 2**20

Matrices = Sequence[Tensor]
Factors = Sequence[Factor]


def apply(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """Multiply ``x`` ``[N, width]`` by each factor in turn. On a CPU the rows are processed in pieces."""
    pieces = _pieces(x)
    if len(pieces) == 1:
        return _forward(x, matrices, factors)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for piece, out_piece in zip(pieces, _pieces(out), strict=True):
        out_piece.copy_(_forward(piece, matrices, factors))
    return out


def apply_back(x: Tensor, matrices: Matrices, factors: Factors) -> Tensor:
    """Apply the inverse of ``apply``: the transpose of each factor, the last one first."""
    groups = _grouped(x, factors[-1])
    for index in range(len(factors) - 1, -1, -1):
        groups = torch.bmm(groups, matrices[index])
        if index:
            groups = _regrouped(groups, factors[index], factors[index - 1])
    return _ungrouped(groups, factors[0])


def gradients(
    x: Tensor, gradient: Tensor, matrices: Matrices, factors: Factors, needs_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Return the gradients of ``x`` (None unless ``needs_x``) and of the matrices, from that of ``apply``'s result.

    Intermediate activations are recomputed, not stored.
    """
    pieces = _pieces(x)
    if len(pieces) == 1:
        return _backward(x, gradient, matrices, factors, needs_x)
    x_gradient = torch.empty(x.shape, dtype=x.dtype, device=x.device) if needs_x else None
    matrix_gradients = [torch.zeros_like(matrix) for matrix in matrices]
    out_pieces = _pieces(x if x_gradient is None else x_gradient)
    for piece, gradient_piece, out_piece in zip(pieces, _pieces(gradient), out_pieces, strict=True):
        piece_gradient, parts = _backward(piece, gradient_piece, matrices, factors, needs_x)
        for total, part in zip(matrix_gradients, parts, strict=True):
            total += part
        if piece_gradient is not None:
            out_piece.copy_(piece_gradient)
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
    groups = _grouped(x, factors[0])
    for index, matrix in enumerate(matrices):
        if index:
            groups = _regrouped(groups, factors[index - 1], factors[index])
        groups = torch.bmm(groups, matrix.transpose(1, 2))
    return _ungrouped(groups, factors[-1])


def _backward(
    x: Tensor, gradient: Tensor, matrices: Matrices, factors: Factors, needs_x: bool
) -> tuple[Tensor | None, list[Tensor]]:
    inputs = [_grouped(x, factors[0])]
    for index in range(1, len(factors)):
        product = torch.bmm(inputs[-1], matrices[index - 1].transpose(1, 2))
        inputs.append(_regrouped(product, factors[index - 1], factors[index]))
    groups, matrix_gradients = _grouped(gradient, factors[-1]), list[Tensor]()
    for index in range(len(factors) - 1, -1, -1):
        matrix_gradients.append(torch.bmm(groups.transpose(1, 2), inputs.pop()))
        if index or needs_x:
            groups = torch.bmm(groups, matrices[index])
        if index:
            groups = _regrouped(groups, factors[index], factors[index - 1])
    return _ungrouped(groups, factors[0]) if needs_x else None, matrix_gradients[::-1]


def _grouped(x: Tensor, factor: Factor) -> Tensor:
    """Return rows ``[N, width]`` as the groups ``[G, N, m]`` of ``factor``: a view if its coordinates are adjacent."""
    (n, width), m, stride = x.shape, factor.size, factor.stride  # len(x) would fix the number of rows when compiled
    if stride == 1:
        return x.view(n, width // m, m).transpose(0, 1)
    groups = x.view(n, width // (m * stride), m, stride).permute(1, 3, 0, 2)
    return groups.contiguous().flatten(0, 1)


def _ungrouped(groups: Tensor, factor: Factor) -> Tensor:
    """Return groups ``[G, N, m]`` as contiguous rows ``[N, width]``: the inverse of ``_grouped``."""
    (count, n, m), stride = groups.shape, factor.stride
    return groups.view(count // stride, stride, n, m).permute(2, 0, 3, 1).reshape(n, count * m)


def _regrouped(groups: Tensor, source: Factor, target: Factor) -> Tensor:
    """Return the groups ``[G, N, m]`` of ``source`` as those of ``target``: one copy if their digits are adjacent."""
    if target.stride != source.stride * source.size and source.stride != target.stride * target.size:
        return _grouped(_ungrouped(groups, source), target)
    stride, n = min(source.stride, target.stride), groups.shape[1]
    # Contiguous even if a view would do: torch.bmm computes the products of other layouts one at a time.
    digits = groups.view(len(groups) // (target.size * stride), target.size, stride, n, source.size)
    return digits.permute(0, 4, 2, 3, 1).contiguous().flatten(0, 2)
