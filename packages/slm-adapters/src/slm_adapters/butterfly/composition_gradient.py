"""Gradient of the composition: from gradients of the matrices to gradients of the angles.

Written out, not recorded by autograd, for two reasons. The sums are taken in an order that does not depend on the
number of layers, so a layer's gradients are the same bits whichever layers it is composed with. And nothing is kept
beyond one pass over the stages.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from slm_adapters.butterfly.composition import (
    Factor,
    angle_index,
    factors_by_size,
    group_angles,
    grow,
    stage_rotations,
)
from slm_adapters.butterfly.structure import Rotation, Stage, prime_factors


def angle_gradients(
    angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...], gradients: dict[Factor, Tensor]
) -> Tensor:
    """Return the gradients of ``angles`` ``[layers, angles of all blocks]``, in their shape and dtype.

    ``gradients``: for each factor those of its matrices, ``[layers, G, m, m]``, in any dtype.
    """
    parts, positions = [], []
    for size, same_size in factors_by_size(factors).items():
        stacked = torch.stack([gradients[factor] for factor in same_size], dim=1)
        columns = stacked.view(-1, size * size).T.contiguous().to(angles.dtype)
        part = _group_gradients(group_angles(angles, rotation, same_size), columns, size)
        parts.append(part.view(len(part), len(angles), -1).transpose(0, 1).flatten(1))
        positions.append(angle_index(angles, rotation, same_size).flatten())
    # Each angle belongs to one group of one factor: this is a permutation.
    return torch.cat(parts, dim=1)[:, torch.argsort(torch.cat(positions))]


def _group_gradients(angles: Tensor, gradient: Tensor, size: int) -> Tensor:
    """Return gradients of ``angles`` ``[angles of a butterfly of size m, G]`` from those of the matrices, [m * m, G]"""
    rotations = stage_rotations(angles, size)
    products = [torch.ones(size, 1, 1, 1, dtype=angles.dtype, device=angles.device)]
    for mixing in rotations[:-1]:
        products.append(grow(products[-1], mixing))
    parts = list[Tensor]()
    stages, end = Rotation.of(size).stage_sequence, len(angles)
    for index in range(len(stages) - 1, -1, -1):
        stage, mixing, product = stages[index], rotations[index], products[index]
        groups = gradient.view(stage.outer, stage.radix, stage.stride, stage.radix, stage.stride, -1)
        inner = product.view(stage.outer, stage.radix, stage.stride, stage.stride, -1).transpose(1, 2).unsqueeze(1)
        mixing_gradient = _sum(groups * inner, 4).squeeze(4).permute(1, 3, 0, 2, 4)
        if index:
            rows = mixing.permute(2, 0, 3, 1, 4).unsqueeze(4)
            gradient = _sum(groups * rows, 1).squeeze(1).transpose(1, 2).contiguous()
        begin = end - stage.angle_count
        parts.append(_stage_gradients(angles[begin:end], mixing, mixing_gradient, stage))
        end = begin
    return torch.cat(parts[::-1])


def _stage_gradients(angles: Tensor, mixing: Tensor, gradient: Tensor, stage: Stage) -> Tensor:
    """Return the gradients of the angles ``[planes * O * L, G]`` of a stage, from those of its rotations.

    A plane turns rows u and v to u' and v'. Then du'/dangle = -v' and dv'/dangle = u'. The planes are undone in turn,
    for the rotation and for its gradient.
    """
    planes = angles.view(len(stage.planes), stage.outer, stage.stride, -1)
    rows, row_gradients = list(mixing.unbind()), list(gradient.unbind())
    parts = [planes] * 0
    for index in range(len(stage.planes) - 1, -1, -1):
        u, v = stage.planes[index]
        parts.append(_sum(row_gradients[v] * rows[u] - row_gradients[u] * rows[v], 0))
        if index:
            cos, sin = torch.cos(planes[index]), torch.sin(planes[index])
            for values in (rows, row_gradients):
                values[u], values[v] = cos * values[u] + sin * values[v], cos * values[v] - sin * values[u]
    return torch.cat(parts[::-1]).flatten(0, 2)


def _sum(values: Tensor, dim: int) -> Tensor:
    """Sum over ``dim``, which is kept, by elementwise additions in an order that only its size determines."""
    for prime in prime_factors(values.shape[dim]) if values.shape[dim] > 1 else ():
        values = reduce(torch.add, values.chunk(prime, dim))
    return values
