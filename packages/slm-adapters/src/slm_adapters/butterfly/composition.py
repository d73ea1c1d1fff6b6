"""Composition of a rotation's stages into factors: each run of stages becomes a batch of small dense matrices.

For example, the eight stages of a block of 256 become two factors of 16 matrices, each 16 x 16: one matrix for each
group of coordinates that differ only in four of the eight binary digits.

Shapes: G groups of m coordinates each; within a group a stage has radix p, L lower and O outer (higher) digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from slm_adapters.butterfly.structure import Rotation, Stage

# Cost of a factor's pass over the activations, in the unit in which the cost of its products is the group size. The
# value for CPUs is measured. That for GPUs is an estimate: their matrix units prefer larger groups.
PASS_COST_CPU, PASS_COST_GPU = 40, 256


@dataclass(frozen=True)
class Factor:
    """Stages ``first`` to ``last`` (excluded) as ``width / size`` matrices ``[size, size]``."""

    first: int
    last: int
    size: int  # coordinates of a group
    stride: int  # distance between the coordinates of a group


@lru_cache
def plan(rotation: Rotation, device_type: str = "cpu") -> tuple[Factor, ...]:
    """Return the cheapest factors that cover the stages in order."""
    pass_cost = PASS_COST_GPU if device_type == "cuda" else PASS_COST_CPU
    factors: list[Factor] = []
    for begin, end in _sweeps(rotation):
        radices = tuple(stage.radix for stage in rotation.stage_sequence[begin:end])
        factors += _sweep_factors(_cheapest_runs(radices, pass_cost), begin, rotation)
    return tuple(factors)


def compose(angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...]) -> tuple[Tensor, ...]:
    """Compose ``angles`` ``[blocks, angles of a block]`` to the matrices ``[G, m, m]`` of each factor.

    Groups are ordered by block, then by the digits above the factor, then by those below it. Differentiable. The result
    is orthogonal to the precision of ``angles``: pass them in float64 and round the matrices once.
    """
    matrices: dict[Factor, Tensor] = {}
    for size in {factor.size for factor in factors}:
        same_size = tuple(f for f in factors if f.size == size)  # composed together: fewer, larger operations
        composed = _compose_groups(angles.flatten()[_index(angles, rotation, same_size)], size)
        matrices |= zip(same_size, composed.chunk(len(same_size)), strict=True)
    return tuple(matrices[factor] for factor in factors)


def _sweeps(rotation: Rotation) -> list[tuple[int, int]]:
    """Return the first stage and the end (exclusive) of each sweep over the digits."""
    starts = [index for index, stage in enumerate(rotation.stage_sequence) if stage.stride == 1]
    return list(zip(starts, [*starts[1:], rotation.stages], strict=True))


@lru_cache
def _cheapest_runs(radices: tuple[int, ...], pass_cost: int) -> tuple[int, ...]:
    """Return the lengths of consecutive runs that cover ``radices`` with the smallest sum of costs."""
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]  # for the first 0, 1, 2 ... radices
    for end in range(1, len(radices) + 1):
        candidates = [
            (best[begin][0] + prod(radices[begin:end]) + pass_cost, (*best[begin][1], end - begin))
            for begin in range(end)
        ]
        best.append(min(candidates))
    return best[-1][1]


def _sweep_factors(runs: tuple[int, ...], begin: int, rotation: Rotation) -> list[Factor]:
    factors = []
    for length in runs:
        stages = rotation.stage_sequence[begin : begin + length]
        factors.append(Factor(begin, begin + length, prod([stage.radix for stage in stages]), stages[0].stride))
        begin += length
    return factors


def _index(angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...]) -> Tensor:
    """Return the positions of the angles of each group of ``factors``, cached except while tracing.

    Under fake tensors and compilation the cache must not be filled: an index created there has no values.
    """
    is_real = type(angles) is Tensor and not torch.compiler.is_compiling()
    make = _angles_of_groups if is_real else _angles_of_groups.__wrapped__
    return make(rotation, factors, angles.device)


@lru_cache(maxsize=256)
def _angles_of_groups(rotation: Rotation, factors: tuple[Factor, ...], device: torch.device) -> Tensor:
    """Return positions ``[angles of a group, groups of all factors]``. Each group is itself a small butterfly."""
    with torch.inference_mode(False):  # the cached index is used in training too
        return torch.cat([_angles_of_factor(rotation, factor, device) for factor in factors], dim=1).contiguous()


def _angles_of_factor(rotation: Rotation, factor: Factor, device: torch.device) -> Tensor:
    begin = sum(stage.angle_count for stage in rotation.stage_sequence[: factor.first])
    parts, stride = [], factor.stride
    above = rotation.block_size // (factor.size * stride)
    for stage in rotation.stage_sequence[factor.first : factor.last]:
        shape = (len(stage.planes), above, stage.outer // above, stage.stride // stride, stride)
        positions = torch.arange(begin, begin + stage.angle_count, device=device).view(shape)
        # A group is identified by its digits above and below the factor; its angles are [planes, outer, stride].
        parts.append(positions.permute(1, 4, 0, 2, 3).reshape(above * stride, -1))
        begin += stage.angle_count
    blocks = torch.arange(rotation.blocks, device=device)[:, None, None] * rotation.angle_shape[1]
    return (blocks + torch.cat(parts, dim=1)).flatten(0, 1).T


def _compose_groups(angles: Tensor, size: int) -> Tensor:
    """Compose angles ``[angles of a butterfly of size m, G]`` to matrices ``[G, m, m]``, one digit at each stage.

    The groups stay the last dimension until the end, so that elementwise products run along them: 0.35 ms instead of
    1.2 ms (AMD EPYC with AVX2, one thread).
    """
    pair_matrices = _pair_matrices(angles)
    matrix = torch.ones(size, 1, 1, 1, dtype=angles.dtype, device=angles.device)
    begin = 0
    for stage in Rotation.of(size).stage_sequence:
        end = begin + stage.angle_count
        mixing = pair_matrices[:, :, begin:end] if stage.radix == 2 else _odd_matrices(angles[begin:end], stage)
        matrix = _grow(matrix, mixing.unflatten(2, (stage.outer, stage.stride)))
        begin = end
    groups_first = matrix.reshape(size * size, -1).T
    # torch.bmm computes other layouts one product at a time: 31 ms instead of 14 ms for 1,024 x 768 in blocks of 256.
    return groups_first.contiguous().view(-1, size, size)


def _grow(matrix: Tensor, mixing: Tensor) -> Tensor:
    """Combine p matrices ``[O p, L, L, G]`` into one by the rotations ``[p, p, O, L, G]``: ``[O, p L, p L, G]``."""
    radix, _, outer, lower, groups = mixing.shape
    rows = mixing.permute(2, 0, 3, 1, 4).unsqueeze(4)  # [O, p, L, p, 1, G]
    parts = matrix.view(outer, radix, lower, lower, -1).transpose(1, 2).unsqueeze(1)  # [O, 1, L, p, L, G]
    return (rows * parts).reshape(outer, radix * lower, radix * lower, groups)


def _pair_matrices(angles: Tensor) -> Tensor:
    """Return the 2 x 2 rotation of each angle: ``[2, 2, *angles]``."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.stack((cos, -sin, sin, cos)).unflatten(0, (2, 2))


def _odd_matrices(flat: Tensor, stage: Stage) -> Tensor:
    """Return the rotations ``[p, p, O * L, G]`` of a stage of odd radix with angles ``[planes * O * L, G]``."""
    angles = flat.unflatten(0, (len(stage.planes), -1))
    cos, sin = torch.cos(angles), torch.sin(angles)
    eye = torch.eye(stage.radix, dtype=flat.dtype, device=flat.device)
    rows = [row[:, None, None].expand(-1, *angles.shape[1:]) for row in eye]
    for plane, (u, v) in enumerate(stage.planes):
        rows[u], rows[v] = (
            cos[plane] * rows[u] - sin[plane] * rows[v],
            sin[plane] * rows[u] + cos[plane] * rows[v],
        )
    return torch.stack(rows)
