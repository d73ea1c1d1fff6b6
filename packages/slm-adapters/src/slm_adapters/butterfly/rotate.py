"""``rotate``: the fast rotation, differentiable, in whatever precision the activations have.

Only the input and the angles are kept for the way back; what lies between is computed again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slm_adapters.butterfly.factors import compose, plan
from slm_adapters.butterfly.products import apply, apply_back, gradients
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.errors import AdapterError


def rotate(x: Tensor, angles: Tensor, rotation: Rotation) -> Tensor:
    """``x`` ``[..., width]`` rotated by ``angles`` ``[blocks, angles of a block]`` (radians).

    The matrices are composed in float64 and rounded once, to the dtype of ``x`` (of autocast, where that is on).
    Equals ``rotate_reference`` up to rounding. Raises AdapterError for shapes that do not fit.
    """
    _check(x, angles, rotation)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        flat = x.reshape(-1, rotation.width)
        y = _rotate(flat, angles, rotation.width, rotation.block_size, rotation.stages)
    return y.view(x.shape)


def matrices(angles: Tensor, rotation: Rotation, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What ``rotate`` multiplies by: the matrices of each factor, composed exactly, rounded once to ``dtype``."""
    factors = plan(rotation, angles.device.type)
    return tuple(matrix.to(dtype) for matrix in compose(_exact(angles), rotation, factors))


def rotate_by(x: Tensor, ready: tuple[Tensor, ...], rotation: Rotation) -> Tensor:
    """``rotate`` with ``matrices`` made before; nothing is recorded for a gradient."""
    flat = x.reshape(-1, rotation.width)
    with torch.no_grad():
        return apply(flat, ready, plan(rotation, x.device.type)).view(x.shape)


def rotate_back(x: Tensor, angles: Tensor, rotation: Rotation) -> Tensor:
    """The inverse of ``rotate``, by the transposed matrices; nothing is recorded for a gradient."""
    _check(x, angles, rotation)
    with torch.no_grad():
        flat = x.reshape(-1, rotation.width)
        factors = plan(rotation, x.device.type)
        return apply_back(flat, matrices(angles, rotation, x.dtype), factors).view(x.shape)


def rotation_matrix(angles: Tensor, rotation: Rotation, dtype: torch.dtype = torch.float64) -> Tensor:
    """R ``[width, width]`` with R x = rotate(x), without a gradient."""
    eye = torch.eye(rotation.width, dtype=dtype, device=angles.device)
    return rotate_back(eye, angles.detach(), rotation)


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _rotate(x: Tensor, angles: Tensor, width: int, block_size: int, stages: int) -> Tensor:
    """One operation to a compiler's front; its back sees the products."""
    y: Tensor = _Rotate.apply(x, angles, Rotation(width, block_size, stages))
    return y


class _Rotate(torch.autograd.Function):
    """``x`` ``[N, width]``. Saves ``x`` and the angles; the matrices and the middle are made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor, rotation: Rotation) -> Tensor:
        ctx.rotation = rotation
        ctx.save_for_backward(x, angles)
        return apply(x, matrices(angles, rotation, x.dtype), plan(rotation, x.device.type))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, angles = ctx.saved_tensors
        needs_x, needs_angles, _ = ctx.needs_input_grad
        factors = plan(ctx.rotation, x.device.type)
        if not needs_angles:
            return apply_back(gradient, matrices(angles, ctx.rotation, x.dtype), factors), None, None
        with torch.enable_grad():
            leaf = angles.detach().requires_grad_()
            ready = matrices(leaf, ctx.rotation, x.dtype)
        of_x, of_matrices = gradients(x, gradient, [matrix.detach() for matrix in ready], factors, needs_x)
        (of_angles,) = torch.autograd.grad(ready, leaf, of_matrices)
        return of_x, of_angles, None


def _exact(angles: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return angles if angles.device.type == "mps" else angles.double()


def _check(x: Tensor, angles: Tensor, rotation: Rotation) -> None:
    if x.shape[-1] != rotation.width:
        raise AdapterError(
            f"cannot rotate a tensor of shape {list(x.shape)}: its last dimension must be {rotation.width}"
        )
    if tuple(angles.shape) != rotation.angle_shape:
        raise AdapterError(
            f"angles have the shape {list(angles.shape)}, but {rotation} takes {list(rotation.angle_shape)}"
        )
