"""Reference implementation of a rotation: the definition, plane by plane. It is slow and easy to read.

Tests compare the fast implementation with it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from slm_adapters.butterfly.structure import Rotation, Stage


def rotate_reference(x: Tensor, angles: Tensor, rotation: Rotation, *, inverse: bool = False) -> Tensor:
    """Rotate ``x`` ``[..., width]`` by ``angles`` ``[blocks, angles of a block]`` (radians), or back with ``inverse``.

    Each angle t rotates a pair of coordinates: (a, b) to (a cos t - b sin t, a sin t + b cos t).
    """
    steps = list(_plane_rotations(angles, rotation))
    y = x.clone()
    for i, j, t in reversed(steps) if inverse else steps:
        cos, sin = torch.cos(t), torch.sin(-t if inverse else t)
        y_i, y_j = y[..., i], y[..., j]
        y = y.index_copy(-1, i, y_i * cos - y_j * sin).index_copy(-1, j, y_i * sin + y_j * cos)
    return y


def matrix_reference(angles: Tensor, rotation: Rotation) -> Tensor:
    """Return the matrix R ``[width, width]`` with R x = rotate_reference(x)."""
    eye = torch.eye(rotation.width, dtype=angles.dtype, device=angles.device)
    return rotate_reference(eye, angles, rotation).T


def _plane_rotations(angles: Tensor, rotation: Rotation) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the two coordinates of disjoint planes, and their angles, in the order in which they are rotated."""
    begin = 0
    for stage in rotation.stage_sequence:
        t = angles[:, begin : begin + stage.angle_count].reshape(rotation.blocks, *stage.angle_shape)
        for plane, (u, v) in enumerate(stage.planes):
            i, j = _coordinates(stage, u, rotation), _coordinates(stage, v, rotation)
            yield i.to(angles.device), j.to(angles.device), t[:, plane].reshape(-1)
        begin += stage.angle_count


def _coordinates(stage: Stage, digit: int, rotation: Rotation) -> Tensor:
    """Return the coordinates that have ``digit`` at this stage, ordered like the angles: block, outer, stride."""
    block = torch.arange(rotation.blocks)[:, None, None] * rotation.block_size
    outer = torch.arange(stage.outer)[None, :, None] * (stage.radix * stage.stride)
    return (block + outer + digit * stage.stride + torch.arange(stage.stride)[None, None, :]).reshape(-1)
