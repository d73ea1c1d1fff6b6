"""The rotation as its definition says it, plane by plane: slow, obvious, and what fast code is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from slm_adapters.butterfly.structure import Rotation, Stage


def rotate_reference(x: Tensor, angles: Tensor, rotation: Rotation, *, inverse: bool = False) -> Tensor:
    """``x`` ``[..., width]`` rotated by ``angles`` ``[blocks, angles of a block]`` (radians), or back by them.

    Each angle t turns a pair of coordinates: (a, b) to (a cos t - b sin t, a sin t + b cos t).
    """
    turns = list(_turns(angles, rotation))
    y = x.clone()
    for i, j, t in reversed(turns) if inverse else turns:
        cos, sin = torch.cos(t), torch.sin(-t if inverse else t)
        y_i, y_j = y[..., i], y[..., j]
        y = y.index_copy(-1, i, y_i * cos - y_j * sin).index_copy(-1, j, y_i * sin + y_j * cos)
    return y


def matrix_reference(angles: Tensor, rotation: Rotation) -> Tensor:
    """The matrix R ``[width, width]`` with R x = rotate_reference(x)."""
    eye = torch.eye(rotation.width, dtype=angles.dtype, device=angles.device)
    return rotate_reference(eye, angles, rotation).T


def _turns(angles: Tensor, rotation: Rotation) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Both coordinates of disjoint planes, and their angles, in the order in which they turn."""
    begin = 0
    for stage in rotation.ladder:
        t = angles[:, begin : begin + stage.angle_count].reshape(rotation.blocks, *stage.angle_shape)
        for at, (u, v) in enumerate(stage.planes):
            i, j = _coordinates(stage, u, rotation), _coordinates(stage, v, rotation)
            yield i.to(angles.device), j.to(angles.device), t[:, at].reshape(-1)
        begin += stage.angle_count


def _coordinates(stage: Stage, digit: int, rotation: Rotation) -> Tensor:
    """The coordinates with ``digit`` at this stage, in the order of the angles: block, outer, stride."""
    block = torch.arange(rotation.blocks)[:, None, None] * rotation.block_size
    outer = torch.arange(stage.outer)[None, :, None] * (stage.radix * stage.stride)
    return (block + outer + digit * stage.stride + torch.arange(stage.stride)[None, None, :]).reshape(-1)
