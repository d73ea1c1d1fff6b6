"""The same rotation, composed first: runs of stages become factors, batches of small dense matrices.

Eight stages of a block of 256 are two factors of 16 matrices each, 16 x 16: one for every group of coordinates that
differ in four of the eight binary digits alone.

Shapes: G groups of m coordinates each; within a group a stage has radix p, L lower and O higher digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from slm_adapters.butterfly.structure import Rotation, Stage

# What a factor costs beside its products, in units of a group's size: passes over the activations. Measured on
# CPUs (LOG.md); matrix units of GPUs prefer larger groups.
PASS_CPU, PASS_GPU = 40, 256


@dataclass(frozen=True)
class Factor:
    """Stages ``first`` to ``last`` (excluded) of the ladder as ``width / size`` matrices ``[size, size]``."""

    first: int
    last: int
    size: int  # coordinates of a group
    below: int  # how far apart they lie


@lru_cache
def plan(rotation: Rotation, device_type: str = "cpu") -> tuple[Factor, ...]:
    """The cheapest factors whose stages follow each other on the ladder."""
    cost = PASS_GPU if device_type == "cuda" else PASS_CPU
    factors: list[Factor] = []
    for begin, end in _sweeps(rotation):
        runs = _cheapest_runs(tuple(stage.radix for stage in rotation.ladder[begin:end]), cost)
        factors += _sweep_factors(runs, begin, rotation)
    return tuple(factors)


def compose(angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...]) -> tuple[Tensor, ...]:
    """Matrices ``[groups, m, m]`` of each factor, from ``angles`` ``[blocks, angles of a block]``; groups are ordered
    by block, digits above the factor, digits below it.

    Differentiable. A rotation is orthogonal to the precision of ``angles``: give them in float64, and round the
    matrices once.
    """
    found: dict[Factor, Tensor] = {}
    for size in {factor.size for factor in factors}:
        alike = tuple(f for f in factors if f.size == size)  # composed together: few, larger operations
        composed = _compose_groups(angles.flatten()[_index(angles, rotation, alike)], size)
        found |= zip(alike, composed.chunk(len(alike)), strict=True)
    return tuple(found[factor] for factor in factors)


def _sweeps(rotation: Rotation) -> list[tuple[int, int]]:
    """Where the ladder starts again from its first step."""
    starts = [at for at, stage in enumerate(rotation.ladder) if stage.stride == 1]
    return list(zip(starts, [*starts[1:], rotation.stages], strict=True))


@lru_cache
def _cheapest_runs(radices: tuple[int, ...], cost: int) -> tuple[int, ...]:
    """Lengths of runs that cover ``radices`` with the least sum of group sizes and costs."""
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for end in range(1, len(radices) + 1):
        ways = [(best[at][0] + prod(radices[at:end]) + cost, (*best[at][1], end - at)) for at in range(end)]
        best.append(min(ways))
    return best[-1][1]


def _sweep_factors(runs: tuple[int, ...], begin: int, rotation: Rotation) -> list[Factor]:
    factors = []
    for length in runs:
        stages = rotation.ladder[begin : begin + length]
        factors.append(Factor(begin, begin + length, prod([stage.radix for stage in stages]), stages[0].stride))
        begin += length
    return factors


def _index(angles: Tensor, rotation: Rotation, factors: tuple[Factor, ...]) -> Tensor:
    """Where the angles of each group of ``factors`` lie; kept for the next time, unless ``angles`` only stand for
    some (tracing, dry runs)."""
    real = type(angles) is Tensor and not torch.compiler.is_compiling()
    make = _angles_of_groups if real else _angles_of_groups.__wrapped__
    return make(rotation, factors, angles.device)


@lru_cache(maxsize=256)
def _angles_of_groups(rotation: Rotation, factors: tuple[Factor, ...], device: torch.device) -> Tensor:
    """``[angles of a group, groups of all factors]``. A group is a small butterfly of its own."""
    with torch.inference_mode(False):  # what is kept must serve training too
        return torch.cat([_angles_of_factor(rotation, factor, device) for factor in factors], dim=1).contiguous()


def _angles_of_factor(rotation: Rotation, factor: Factor, device: torch.device) -> Tensor:
    begin = sum(stage.angle_count for stage in rotation.ladder[: factor.first])
    parts, t = [], factor.below
    above = rotation.block_size // (factor.size * t)
    for stage in rotation.ladder[factor.first : factor.last]:
        shape = (len(stage.planes), above, stage.outer // above, stage.stride // t, t)
        places = torch.arange(begin, begin + stage.angle_count, device=device).view(shape)
        parts.append(places.permute(1, 4, 0, 2, 3).reshape(above * t, -1))  # group: planes, digits above, below
        begin += stage.angle_count
    blocks = torch.arange(rotation.blocks, device=device)[:, None, None] * rotation.angle_shape[1]
    return (blocks + torch.cat(parts, dim=1)).flatten(0, 1).T


def _compose_groups(angles: Tensor, size: int) -> Tensor:
    """``[angles of a butterfly of size m, G]`` as matrices ``[G, m, m]``, growing by a digit with each stage.

    Groups come last on the way: elementwise products then run along them."""
    turns = _pair_turns(angles)
    matrix = torch.ones(size, 1, 1, 1, dtype=angles.dtype, device=angles.device)
    begin = 0
    for stage in Rotation.of(size).ladder:
        end = begin + stage.angle_count
        mixing = turns[:, :, begin:end] if stage.radix == 2 else _odd_turns(angles[begin:end], stage)
        matrix = _grown(matrix, mixing.unflatten(2, (stage.outer, stage.stride)))
        begin = end
    groups_first = matrix.reshape(size * size, -1).T
    return groups_first.contiguous().view(-1, size, size)  # torch.bmm takes other layouts one product at a time


def _grown(matrix: Tensor, mixing: Tensor) -> Tensor:
    """p matrices ``[O p, L, L, G]`` and what mixes their rows, ``[p, p, O, L, G]``, as ``[O, p L, p L, G]``."""
    radix, _, outer, lower, groups = mixing.shape
    rows = mixing.permute(2, 0, 3, 1, 4).unsqueeze(4)  # [O, p, L, p, 1, G]
    parts = matrix.view(outer, radix, lower, lower, -1).transpose(1, 2).unsqueeze(1)  # [O, 1, L, p, L, G]
    return (rows * parts).reshape(outer, radix * lower, radix * lower, groups)


def _pair_turns(angles: Tensor) -> Tensor:
    """Angles as rotations of a pair: ``[2, 2, *angles]``."""
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.stack((cos, -sin, sin, cos)).unflatten(0, (2, 2))


def _odd_turns(flat: Tensor, stage: Stage) -> Tensor:
    """``[planes * O * L, G]`` angles of a stage of odd radix as its rotations ``[p, p, O * L, G]``."""
    angles = flat.unflatten(0, (len(stage.planes), -1))
    cos, sin = torch.cos(angles), torch.sin(angles)
    eye = torch.eye(stage.radix, dtype=flat.dtype, device=flat.device)
    rows = [row[:, None, None].expand(-1, *angles.shape[1:]) for row in eye]
    for at, (u, v) in enumerate(stage.planes):
        rows[u], rows[v] = cos[at] * rows[u] - sin[at] * rows[v], sin[at] * rows[u] + cos[at] * rows[v]
    return torch.stack(rows)
