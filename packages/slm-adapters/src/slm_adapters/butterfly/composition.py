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

    Groups are ordered by block, then by the digits above the factor, then by those below it. The result is orthogonal
    to the precision of ``angles``: pass them in float64 and round the matrices once.
    """
    (matrices,) = compose_layers(angles.flatten()[None], rotation, factors, angles.dtype)
    return matrices


def compose_layers(
    angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...], dtype: torch.dtype
) -> list[tuple[Tensor, ...]]:
    """Compose the angles of several layers, ``[layers, angles of all blocks]``, together.

    The matrices of a layer do not depend, in any bit, on the layers they are composed with.

    Returns:
        For each layer what ``compose`` returns, rounded to ``dtype``.
    """
    by_factor: dict[Factor, tuple[Tensor, ...]] = {}
    for size, same_size in factors_by_size(factors).items():
        matrix = _compose_groups(group_angles(angles, rotation, same_size), size)
        # torch.bmm computes other layouts one product at a time: 31 ms instead of 14 ms for 1,024 x 768 in blocks of
        # 256. Rounding before the transposition moves half of the bytes or less.
        groups_first = matrix.reshape(size * size, -1).to(dtype).T.contiguous()
        composed = groups_first.view(len(angles) * len(same_size), -1, size, size).unbind()
        by_factor |= {factor: composed[at :: len(same_size)] for at, factor in enumerate(same_size)}
    return list(zip(*(by_factor[factor] for factor in factors), strict=True))


def factors_by_size(factors: tuple[Factor, ...]) -> dict[int, tuple[Factor, ...]]:
    """Return the factors of each group size. They are composed together: fewer, larger operations."""
    return {size: tuple(f for f in factors if f.size == size) for size in dict.fromkeys(f.size for f in factors)}


def group_angles(angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...]) -> Tensor:
    """Return angles ``[layers, angles of all blocks]`` as ``[angles of a group, layers * groups of all factors]``."""
    index = angle_index(angles, rotation, factors)
    return angles[:, index].transpose(0, 1).reshape(len(index), -1)


def to_float64(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float64, or in float32 on Apple's MPS, which has no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.to(torch.float64)


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


def angle_index(angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...]) -> Tensor:
    """Return the positions ``[angles of a group, groups of all factors]`` of angles, cached except while tracing.

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
    """Compose angles ``[angles of a butterfly of size m, G]`` to matrices ``[1, m, m, G]``, one digit at each stage.

    The groups are the last dimension, so that elementwise products run along them: 0.35 ms instead of 1.2 ms (AMD EPYC
    with AVX2, one thread). Every number is computed by elementwise operations, in the same order for any G.
    """
    matrix = torch.ones(size, 1, 1, 1, dtype=angles.dtype, device=angles.device)
    for mixing in stage_rotations(angles, size):
        matrix = grow(matrix, mixing)
    return matrix


def stage_rotations(angles: Tensor, size: int) -> list[Tensor]:
    """Return the rotations ``[p, p, O, L, G]`` of each stage of a butterfly of ``size``, from angles as above."""
    pair_matrices, rotations, begin = _pair_matrices(angles), [], 0
    for stage in Rotation.of(size).stage_sequence:
        end = begin + stage.angle_count
        mixing = pair_matrices[:, :, begin:end] if stage.radix == 2 else _odd_matrices(angles[begin:end], stage)
        rotations.append(mixing.unflatten(2, (stage.outer, stage.stride)))
        begin = end
    return rotations


def grow(matrix: Tensor, mixing: Tensor) -> Tensor:
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
