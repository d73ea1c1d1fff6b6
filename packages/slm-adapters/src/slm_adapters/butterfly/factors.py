"""Composition of a rotation into factors: runs of stages as batches of small dense matrices.

Eight stages of a block of 256 become two factors of 16 matrices each, 16 x 16: one matrix for every group of
coordinates that differ in four of the eight binary digits only.

Shapes: G groups of m coordinates each; within a group a stage has radix p, L lower and O outer (higher) digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from slm_adapters.butterfly.structure import Rotation, Stage

# Cost of a factor besides its products, in units of a group's size: a pass over the activations. Measured on CPUs; for
# GPUs an estimate, because their matrix units prefer larger groups.
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

    Groups are ordered by block, digits above the factor, digits below it. Differentiable. The result is orthogonal to
    the precision of ``angles``: pass them in float64 and round the matrices once.
    """
    matrices: dict[Factor, Tensor] = {}
    for size in {factor.size for factor in factors}:
        same_size = tuple(f for f in factors if f.size == size)  # composed together: fewer, larger operations
        composed = _compose_groups(angles.flatten()[_index(angles, rotation, same_size)], size)
        matrices |= zip(same_size, composed.chunk(len(same_size)), strict=True)
    return tuple(matrices[factor] for factor in factors)


def _sweeps(rotation: Rotation) -> list[tuple[int, int]]:
    """Return the first and last (excluded) stage of each sweep over the digits."""
    starts = [index for index, stage in enumerate(rotation.stage_sequence) if stage.stride == 1]
    return list(zip(starts, [*starts[1:], rotation.stages], strict=True))


@lru_cache
def _cheapest_runs(radices: tuple[int, ...], pass_cost: int) -> tuple[int, ...]:
    """Return the lengths of runs that cover ``radices`` with the least sum of group sizes and pass costs."""
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
    """Return the positions of the angles of each group of ``factors``, from the cache unless in tracing.

    Fake tensors and compilation must not fill the cache: an index made there has no values.
    """
    is_real = type(angles) is Tensor and not torch.compiler.is_compiling()
    make = _angles_of_groups if is_real else _angles_of_groups.__wrapped__
    return make(rotation, factors, angles.device)


@lru_cache(maxsize=256)
def _angles_of_groups(rotation: Rotation, factors: tuple[Factor, ...], device: torch.device) -> Tensor:
    """Return ``[angles of a group, groups of all factors]``. A group is a small butterfly of its own."""
    with torch.inference_mode(False):  # the cached index is used in training too
        return torch.cat([_angles_of_factor(rotation, factor, device) for factor in factors], dim=1).contiguous()


def _angles_of_factor(rotation: Rotation, factor: Factor, device: torch.device) -> Tensor:
    begin = sum(stage.angle_count for stage in rotation.stage_sequence[: factor.first])
    parts, stride = [], factor.stride
    above = rotation.block_size // (factor.size * stride)
    for stage in rotation.stage_sequence[factor.first : factor.last]:
        shape = (len(stage.planes), above, stage.outer // above, stage.stride // stride, stride)
        positions = torch.arange(begin, begin + stage.angle_count, device=device).view(shape)
        # A group has one digit above the factor and one below it; its angles are planes, outer, stride.
        parts.append(positions.permute(1, 4, 0, 2, 3).reshape(above * stride, -1))
        begin += stage.angle_count
    blocks = torch.arange(rotation.blocks, device=device)[:, None, None] * rotation.angle_shape[1]
    return (blocks + torch.cat(parts, dim=1)).flatten(0, 1).T


def _compose_groups(angles: Tensor, size: int) -> Tensor:
    """Return ``[angles of a butterfly of size m, G]`` as matrices ``[G, m, m]``, grown by a digit with each stage.

    Groups are the last dimension until the end, so that elementwise products run along them: 0.35 ms instead of 1.2 ms
    (AMD EPYC with AVX2, one thread).
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
    """Mix the rows of p matrices ``[O p, L, L, G]`` by ``[p, p, O, L, G]``; return ``[O, p L, p L, G]``."""
    radix, _, outer, lower, groups = mixing.shape
    rows = mixing.permute(2, 0, 3, 1, 4).unsqueeze(4)  # [O, p, L, p, 1, G]
    parts = matrix.view(outer, radix, lower, lower, -1).transpose(1, 2).unsqueeze(1)  # [O, 1, L, p, L, G]
    return (rows * parts).reshape(outer, radix * lower, radix * lower, groups)


def _pair_matrices(angles: Tensor) -> Tensor:
    """Return the 2 x 2 rotation of each angle: ``[2, 2, *angles]``."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.stack((cos, -sin, sin, cos)).unflatten(0, (2, 2))


def _odd_matrices(flat: Tensor, stage: Stage) -> Tensor:
    """Return the angles ``[planes * O * L, G]`` of a stage of odd radix as its rotations ``[p, p, O * L, G]``."""
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
