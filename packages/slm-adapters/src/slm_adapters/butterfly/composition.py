"""Composition of a rotation's stages into factors: each run of stages becomes a batch of small dense matrices.

For example, the eight stages of a block of 256 become two factors of 16 matrices, each 16 x 16: one matrix for each
group of coordinates that differ only in four of the eight binary digits.

Shapes: G groups of m coordinates each; within a group a stage has radix p, L lower and O outer (higher) digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from slm_adapters.base.device import has_float64
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
    return angles.flatten()[_cached_unless_tracing(_angles_of_groups, angles)(rotation, factors, *_kind(angles))]


def ungroup_angles(grouped: Tensor, like: Tensor, rotation: Rotation, factors: tuple[Factor, ...]) -> Tensor:
    """Undo ``group_angles`` for ``factors_by_size(factors)``, whose grouped angles ``grouped`` holds one after another.

    ``like``: a tensor in the shape of the result, ``[layers, angles of all blocks]``.
    """
    return grouped[_cached_unless_tracing(_places_of_angles, like)(rotation, factors, *_kind(like))]


def to_float64(tensor: Tensor) -> Tensor:
    """Return ``tensor`` in float64, or in float32 on a device that does not have it (Apple's MPS, some of Intel)."""
    return tensor.to(torch.float64 if has_float64(tensor.device) else torch.float32)


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


def _kind(angles: Tensor) -> tuple[int, torch.device]:
    return len(angles), angles.device


def _cached_unless_tracing(make: Any, angles: Tensor) -> Callable[..., Tensor]:
    """Return ``make``, an index that is cached, or without its cache under fake tensors and compilation.

    The cache must not be filled there: an index created there has no values.
    """
    is_real = type(angles) is Tensor and not torch.compiler.is_compiling()
    return make if is_real else make.__wrapped__


@lru_cache(maxsize=256)
def _angles_of_groups(rotation: Rotation, factors: tuple[Factor, ...], layers: int, device: torch.device) -> Tensor:
    """Return positions ``[angles of a group, layers * groups of all factors]`` in the angles of all layers.

    Each group is itself a small butterfly.
    """
    with torch.inference_mode(False):  # the cached index is used in training too
        positions = torch.cat([_angles_of_factor(rotation, factor, device) for factor in factors], dim=1)
        offsets = torch.arange(layers, device=device)[:, None] * rotation.angle_count
        return (positions[:, None] + offsets).flatten(1)


@lru_cache(maxsize=256)
def _places_of_angles(rotation: Rotation, factors: tuple[Factor, ...], layers: int, device: torch.device) -> Tensor:
    """Return where the grouped angles of all sizes hold each angle: ``[layers, angles of all blocks]``."""
    with torch.inference_mode(False):
        same_sizes = factors_by_size(factors).values()
        grouped = [_angles_of_groups.__wrapped__(rotation, each, layers, device).flatten() for each in same_sizes]
        return torch.argsort(torch.cat(grouped)).view(layers, -1)  # each angle belongs to one group of one factor


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
    first, *others = stage_rotations(angles, size)[1]
    return reduce(grow, others, first.squeeze(1))


def stage_rotations(angles: Tensor, size: int) -> tuple[Tensor, list[Tensor]]:
    """Return the rotations of a butterfly of ``size``, from angles as above.

    Returns:
        Those of all pairs, ``[A, 2, 2, G]`` for A angles, and those of each stage, ``[O, L, p, p, G]``.
    """
    stages, rotations, begin = Rotation.of(size).stage_sequence, list[Tensor](), 0
    pairs = _pair_matrices(angles[: pair_angles(stages)])
    for stage in stages:
        end = begin + stage.angle_count
        matrices = pairs[begin:end] if stage.radix == 2 else _odd_matrices(angles[begin:end], stage)
        rotations.append(matrices.unflatten(0, (stage.outer, stage.stride)))
        begin = end
    return pairs, rotations


def pair_angles(stages: Sequence[Stage]) -> int:
    """Return the number of angles in stages of radix 2, which come first."""
    return sum(stage.angle_count for stage in stages if stage.radix == 2)


def grow(matrix: Tensor, mixing: Tensor) -> Tensor:
    """Combine p matrices ``[O p, L, L, G]`` into one by the rotations ``[O, L, p, p, G]``: ``[O, p L, p L, G]``."""
    outer, lower, radix, _, groups = mixing.shape
    rows = mixing.transpose(1, 2).unsqueeze(4)  # [O, p, L, p, 1, G]
    parts = matrix.view(outer, radix, lower, lower, -1).transpose(1, 2).unsqueeze(1)  # [O, 1, L, p, L, G]
    return (rows * parts).reshape(outer, radix * lower, radix * lower, groups)


def _pair_matrices(angles: Tensor) -> Tensor:
    """Return the 2 x 2 rotation of each angle ``[A, G]``: ``[A, 2, 2, G]``."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.stack((cos, -sin, sin, cos), dim=1).unflatten(1, (2, 2))


def _odd_matrices(flat: Tensor, stage: Stage) -> Tensor:
    """Return the rotations ``[O * L, p, p, G]`` of a stage of odd radix with angles ``[planes * O * L, G]``."""
    angles = flat.unflatten(0, (len(stage.planes), -1))
    cos, sin = torch.cos(angles), torch.sin(angles)
    eye = torch.eye(stage.radix, dtype=flat.dtype, device=flat.device)
    rows = [row[:, None].expand(len(cos[0]), -1, flat.shape[1]) for row in eye]  # [O * L, p, G]
    for plane, (u, v) in enumerate(stage.planes):
        c, s = cos[plane].unsqueeze(1), sin[plane].unsqueeze(1)
        rows[u], rows[v] = c * rows[u] - s * rows[v], s * rows[u] + c * rows[v]
    return torch.stack(rows, dim=1)
