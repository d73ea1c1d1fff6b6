"""Gradient of the composition: from gradients of the matrices to gradients of the angles.

Written out, not recorded by autograd, for two reasons. The sums are taken in an order that does not depend on the
number of layers, so a layer's gradients are the same bits whichever layers it is composed with. And nothing is kept
beyond one pass over the stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from slm_adapters.butterfly.composition import (
    Factor,
    factors_by_size,
    group_angles,
    grow,
    pair_angles,
    stage_rotations,
    ungroup_angles,
)
from slm_adapters.butterfly.structure import Rotation, Stage, prime_factors


def angle_gradients(
    angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...], gradients: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Return the gradients of ``angles`` ``[layers, angles of all blocks]``, in their shape and dtype.

    ``gradients``: for each layer those of the matrices of each factor, ``[G, m, m]``, in any dtype.
    """
    parts = list[Tensor]()
    for size, same_size in factors_by_size(factors).items():
        at = [factors.index(factor) for factor in same_size]
        stacked = torch.stack([layer[index] for layer in gradients for index in at])
        columns = stacked.view(-1, size * size).T.contiguous().to(angles.dtype)
        parts.append(_group_gradients(group_angles(angles, rotation, same_size), columns, size).flatten())
    return ungroup_angles(_joined(parts), angles, rotation, factors)


def _group_gradients(angles: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Return gradients of ``angles`` ``[angles of a butterfly of size m, G]`` from those of the matrices, [m * m, G]"""
    stages, (pairs, rotations) = Rotation.of(size).stage_sequence, stage_rotations(angles, size)
    products = [rotations[0].squeeze(1)]
    for mixing in rotations[1:-1]:
        products.append(grow(products[-1], mixing))
    gradients = [gradient] * len(stages)  # of each stage's rotations
    for index in range(len(stages) - 1, 0, -1):
        stage, product = stages[index], products[index - 1]
        groups = gradient.view(stage.outer, stage.radix, stage.stride, stage.radix, stage.stride, -1)
        inner = product.view(stage.outer, stage.radix, stage.stride, stage.stride, -1).transpose(1, 2).unsqueeze(1)
        gradients[index] = _sum(groups * inner, 4).squeeze(4).transpose(1, 2)
        rows = rotations[index].transpose(1, 2).unsqueeze(4)
        gradient = _sum(groups * rows, 1).squeeze(1).transpose(1, 2).contiguous()
    gradients[0] = gradient.view(stages[0].outer, 1, stages[0].radix, stages[0].radix, -1)
    parts, begin = [_pair_gradients(pairs, gradients, stages)] if len(pairs) else [], pair_angles(stages)
    for stage, mixing, gradient in zip(stages, rotations, gradients, strict=True):
        if stage.radix > 2:
            parts.append(_odd_gradients(angles[begin : begin + stage.angle_count], mixing, gradient, stage))
            begin += stage.angle_count
    return _joined(parts)


def _pair_gradients(pairs: Tensor, gradients: Sequence[Tensor], stages: Sequence[Stage]) -> Tensor:
    """Return the gradients ``[A, G]`` of the angles of all pairs, from those of the rotations of each stage.

    A rotation takes rows 0 and 1 to u and v. Then du/dangle = -v and dv/dangle = u.
    """
    # The remaining digits of every pair's stage are the same, so that strided gradients can be stacked.
    digits = [stage.radix for stage in stages[:0:-1]]
    same = [
        gradient.view(*digits, 2, 2, -1) for gradient, stage in zip(gradients, stages, strict=True) if stage.radix == 2
    ]
    stacked = torch.stack(same).view(pairs.shape)
    return _sum(stacked[:, 1] * pairs[:, 0] - stacked[:, 0] * pairs[:, 1], 1).squeeze(1)


def _odd_gradients(angles: Tensor, mixing: Tensor, gradient: Tensor, stage: Stage) -> Tensor:
    """Return the gradients of the angles ``[planes * O * L, G]`` of a stage, from those of its rotations.

    The planes, each as a pair above, are undone in turn, for the rotation and for its gradient.
    """
    planes = angles.view(len(stage.planes), stage.outer, stage.stride, 1, -1)
    rows, row_gradients = list(mixing.unbind(2)), list(gradient.unbind(2))  # [O, L, p, G] each
    parts = [planes] * 0
    for index in range(len(stage.planes) - 1, -1, -1):
        u, v = stage.planes[index]
        parts.append(_sum(row_gradients[v] * rows[u] - row_gradients[u] * rows[v], 2))
        if index:
            cos, sin = torch.cos(planes[index]), torch.sin(planes[index])
            for values in (rows, row_gradients):
                values[u], values[v] = cos * values[u] + sin * values[v], cos * values[v] - sin * values[u]
    return torch.stack(parts[::-1]).flatten(0, 3)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _sum(values: Tensor, dim: int) -> Tensor:
    """Sum over ``dim``, which is kept, by elementwise additions in an order that only its size determines."""
    for prime in prime_factors(values.shape[dim]) if values.shape[dim] > 1 else ():
        values = reduce(torch.add, values.chunk(prime, dim))
    return values
