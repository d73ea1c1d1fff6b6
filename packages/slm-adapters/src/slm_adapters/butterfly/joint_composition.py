"""Composition of the rotations of several layers as one differentiable operation.

A layer's matrices and gradients are the same bits as if it were composed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from slm_adapters.butterfly.composition import compose_layers, plan, to_float64
from slm_adapters.butterfly.composition_gradient import angle_gradients
from slm_adapters.butterfly.structure import Rotation

CHUNK_NUMBERS = 2**20  # matrix entries composed at a time: 8 MB in float64, and about three times that while composing


@dataclass(frozen=True)
class JointComposition:
    """What is composed: layers with the same rotation.

    Args:
        rotation: The rotation of every layer.
        dtype: To which the matrices are rounded, once.
        strengths: Factor on the angles of each layer.
        on_backward: Called with the positions of the layers whose angles a backward pass gives gradients.
    """

    rotation: Rotation
    dtype: torch.dtype
    strengths: tuple[float, ...]
    on_backward: Callable[[Sequence[int]], None]

    def compose(self, angles: Sequence[Tensor], values: Tensor) -> list[tuple[Tensor, ...]]:
        """Return the matrices ``[G, m, m]`` of each layer and factor.

        Nothing is saved for the backward pass but ``values``, so a graph can be used by several backward passes.

        Args:
            angles: ``[blocks, angles of a block]`` for each layer, which get the gradients.
            values: A copy of their values, ``[layers, angles of all blocks]``, which must not be written to.
        """
        matrices: tuple[Tensor, ...] = _Compose.apply(self, values, *angles)
        count = len(plan(self.rotation, values.device.type))
        return [matrices[at : at + count] for at in range(0, len(matrices), count)]

    def scaled(self, values: Tensor, positions: Sequence[int]) -> Tensor:
        """Return ``values`` times the strengths of the layers at ``positions``, in the dtype of ``values``."""
        strengths = [self.strengths[position] for position in positions]
        if set(strengths) == {strengths[0]}:
            return values if strengths[0] == 1 else values * strengths[0]
        return values * torch.tensor(strengths, dtype=values.dtype, device=values.device)[:, None]

    def chunks(self, positions: Sequence[int], device_type: str) -> Iterator[Sequence[int]]:
        """Yield parts of ``positions`` that are composed at a time, so that few numbers are held in float64."""
        numbers = sum(self.rotation.width * factor.size for factor in plan(self.rotation, device_type))
        count = max(1, CHUNK_NUMBERS // numbers)
        for begin in range(0, len(positions), count):
            yield positions[begin : begin + count]


class _Compose(torch.autograd.Function):
    """Composes all layers; the backward pass gives gradients to those whose matrices have one."""

    @staticmethod
    def forward(ctx: Any, joint: JointComposition, values: Tensor, *angles: Tensor) -> tuple[Tensor, ...]:
        # Not save_for_backward: it would check for writes to the angles since, but ``values`` are those composed. And
        # gradient checkpointing counts what is saved, which must not depend on the layer that happens to compose.
        ctx.joint, ctx.values = joint, values
        ctx.set_materialize_grads(False)
        factors = plan(joint.rotation, values.device.type)
        matrices = list[Tensor]()
        for positions in joint.chunks(range(len(angles)), values.device.type):
            chunk = to_float64(joint.scaled(_rows(values, positions), positions))
            for layer in compose_layers(chunk, joint.rotation, factors, joint.dtype):
                matrices += layer
        trained = [needed for needed in ctx.needs_input_grad[2:] for _ in factors]
        ctx.mark_non_differentiable(*(m for m, needed in zip(matrices, trained, strict=True) if not needed))
        return tuple(matrices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        joint, values = ctx.joint, ctx.values
        factors = plan(joint.rotation, values.device.type)
        layers = [gradients[at : at + len(factors)] for at in range(0, len(gradients), len(factors))]
        # A layer that was not called gets no gradient, not one of zeros: as if it had been composed alone.
        used = [at for at, parts in enumerate(layers) if parts[0] is not None and ctx.needs_input_grad[2 + at]]
        joint.on_backward(used)
        results: list[Tensor | None] = [None] * len(layers)
        for positions in joint.chunks(used, values.device.type):
            chunk = to_float64(joint.scaled(_rows(values, positions), positions))
            of_matrices = [layers[at] for at in positions]
            gradient = angle_gradients(chunk, joint.rotation, factors, of_matrices).to(values.dtype)
            rows = joint.scaled(gradient, positions).view(-1, *joint.rotation.angle_shape).unbind()
            for position, row in zip(positions, rows, strict=True):
                results[position] = row
        return None, None, *results


def _rows(values: Tensor, positions: Sequence[int]) -> Tensor:
    """Return rows of ``values``: a view if ``positions``, in ascending order, are adjacent."""
    begin, end = positions[0], positions[-1] + 1
    return values[begin:end] if end - begin == len(positions) else values[positions]
