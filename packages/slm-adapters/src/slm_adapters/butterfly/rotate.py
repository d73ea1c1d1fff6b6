"""``rotate``: the fast, differentiable rotation, in the precision of the activations.

Only the input and the angles are saved for the backward pass; intermediate results are recomputed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slm_adapters.butterfly.composition import compose, plan, to_float64
from slm_adapters.butterfly.composition_gradient import angle_gradients
from slm_adapters.butterfly.products import apply, apply_back, gradients
from slm_adapters.butterfly.structure import Rotation
from slm_adapters.errors import AdapterError


def rotate(x: Tensor, angles: Tensor, rotation: Rotation) -> Tensor:
    """Rotate ``x`` ``[..., width]`` by ``angles`` ``[blocks, angles of a block]`` (radians).

    The matrices are composed in float64 and rounded once to the dtype of ``x``, or of autocast if it is enabled. The
    result equals that of ``rotate_reference`` up to rounding. Raises AdapterError for shapes that do not fit.
    """
    _check_shapes(x, angles, rotation)
    x = x.to(rotated_dtype(x))
    # Autocast would round the composition of the matrices too: 2e-2 off orthogonal in bfloat16, against 4e-3.
    with torch.autocast(x.device.type, enabled=False):
        rows = x.reshape(-1, rotation.width)
        y = _rotate(rows, angles, rotation.width, rotation.block_size, rotation.stages)
    return y.view(x.shape)


def rotated_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which ``x`` is rotated: its own, or that of autocast if it is enabled.

    Autocast leaves float64 as it is, in linear layers too.
    """
    device = x.device.type
    is_cast = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if is_cast else x.dtype


def rotate_composed(x: Tensor, matrices: tuple[Tensor, ...], rotation: Rotation) -> Tensor:
    """Rotate ``x`` ``[..., width]`` by composed matrices of the dtype ``rotated_dtype(x)``; differentiable in both."""
    rows = x.to(matrices[0].dtype).reshape(-1, rotation.width)
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _RotateComposed.apply(rows, rotation, *matrices)
    return y.view(x.shape)


def rotation_matrices(angles: Tensor, rotation: Rotation, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return the matrices that ``rotate`` multiplies by, for each factor: composed in float64, rounded to ``dtype``."""
    factors = plan(rotation, angles.device.type)
    return tuple(matrix.to(dtype) for matrix in compose(to_float64(angles), rotation, factors))


def rotate_by_matrices(x: Tensor, matrices: tuple[Tensor, ...], rotation: Rotation) -> Tensor:
    """Rotate ``x`` ``[..., width]`` by matrices from ``rotation_matrices``; no gradient is recorded."""
    rows = x.reshape(-1, rotation.width)
    with torch.no_grad():
        return apply(rows, matrices, plan(rotation, x.device.type)).view(x.shape)


def rotate_back(x: Tensor, angles: Tensor, rotation: Rotation) -> Tensor:
    """Apply the inverse of ``rotate``, by the transposed matrices; no gradient is recorded."""
    _check_shapes(x, angles, rotation)
    with torch.no_grad():
        rows = x.reshape(-1, rotation.width)
        factors = plan(rotation, x.device.type)
        return apply_back(rows, rotation_matrices(angles, rotation, x.dtype), factors).view(x.shape)


def rotation_matrix(angles: Tensor, rotation: Rotation, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return R ``[width, width]`` with R x = rotate(x), without a gradient."""
    eye = torch.eye(rotation.width, dtype=dtype, device=angles.device)
    return rotate_back(eye, angles.detach(), rotation)


# Dynamo treats this as one operation, whose arguments must be tensors and plain integers; AOTAutograd traces into it.
@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _rotate(x: Tensor, angles: Tensor, width: int, block_size: int, stages: int) -> Tensor:
    y: Tensor = _Rotate.apply(x, angles, Rotation(width, block_size, stages))
    return y


class _Rotate(torch.autograd.Function):
    """Rotates ``x`` ``[N, width]``; saves ``x`` and the angles, and recomputes matrices and intermediate rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor, rotation: Rotation) -> Tensor:
        ctx.rotation = rotation
        ctx.save_for_backward(x, angles)
        return apply(x, rotation_matrices(angles, rotation, x.dtype), plan(rotation, x.device.type))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, angles = ctx.saved_tensors
        needs_x, needs_angles, _ = ctx.needs_input_grad
        factors = plan(ctx.rotation, x.device.type)
        if not needs_angles:
            return apply_back(gradient, rotation_matrices(angles, ctx.rotation, x.dtype), factors), None, None
        matrices = rotation_matrices(angles, ctx.rotation, x.dtype)
        x_gradient, matrix_gradients = gradients(x, gradient, matrices, factors, needs_x)
        exact = angle_gradients(to_float64(angles).flatten()[None], ctx.rotation, factors, [matrix_gradients])
        return x_gradient, exact.view(angles.shape).to(angles.dtype), None


class _RotateComposed(torch.autograd.Function):
    """Rotates ``x`` ``[N, width]`` by matrices; saves these and ``x``, and recomputes intermediate rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rotation: Rotation, *matrices: Tensor) -> Tensor:
        ctx.rotation = rotation
        ctx.save_for_backward(x, *matrices)
        return apply(x, matrices, plan(rotation, x.device.type))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *matrices = ctx.saved_tensors
        needs_x, _, needs_matrices, *_ = ctx.needs_input_grad
        factors = plan(ctx.rotation, x.device.type)
        if not needs_matrices:
            return apply_back(gradient, matrices, factors), None, *[None] * len(matrices)
        x_gradient, matrix_gradients = gradients(x, gradient, matrices, factors, needs_x)
        return x_gradient, None, *matrix_gradients


def _check_shapes(x: Tensor, angles: Tensor, rotation: Rotation) -> None:
    if x.shape[-1] != rotation.width:
        raise AdapterError(
            f"cannot rotate a tensor of shape {list(x.shape)}: its last dimension must be {rotation.width}"
        )
    if tuple(angles.shape) != rotation.angle_shape:
        raise AdapterError(
            f"angles have the shape {list(angles.shape)}, but {rotation} takes {list(rotation.angle_shape)}"
        )
