"""Cached rotations and rotated weights of a layer, each valid until something that it was computed from changes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slm_adapters.base.layer_weights import write_weight
from slm_adapters.butterfly.rotate import rotation_matrices
from slm_adapters.butterfly.structure import Rotation


@dataclass(frozen=True)
class TensorSnapshot:
    """The state of a tensor, with which it can be compared later.

    If ``version`` is None, ``tensor`` is a copy of the values. Otherwise it shares the original's memory, and
    ``version`` is torch's count of writes to it, which does not include writes through ``.data``.
    """

    tensor: Tensor
    version: int | None

    @classmethod
    def of_values(cls, tensor: Tensor) -> TensorSnapshot:
        """Compare by value on a CPU, by memory on a GPU: comparing values there would wait for the GPU."""
        return cls(tensor.detach().clone(), None) if tensor.device.type == "cpu" else cls.of_memory(tensor)

    @classmethod
    def of_copy(cls, tensor: Tensor, copy: Tensor) -> TensorSnapshot:
        """Like ``of_values``, with an existing copy of the values, of any shape."""
        return cls(copy.view(tensor.shape), None) if tensor.device.type == "cpu" else cls.of_memory(tensor)

    @classmethod
    def of_memory(cls, tensor: Tensor) -> TensorSnapshot:
        """Compare by memory on any device; nothing is copied."""
        return cls(tensor.detach(), _version(tensor))

    def matches(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is unchanged."""
        recorded = self.tensor
        if tensor.device != recorded.device or tensor.dtype != recorded.dtype:
            return False
        if self.version is None:
            return torch.equal(tensor, recorded) or _same_bits(tensor, recorded)
        return tensor.data_ptr() == recorded.data_ptr() and _version(tensor) == self.version


@dataclass(frozen=True)
class CachedRotation:
    """Composed matrices of a rotation, and the angles, strength and dtype that they were composed for."""

    matrices: tuple[Tensor, ...]
    dtype: torch.dtype
    strength: float
    angles: TensorSnapshot

    @classmethod
    @torch.no_grad()
    def compose(cls, x: Tensor, angles: Tensor, strength: float, rotation: Rotation) -> CachedRotation:
        """Compose the matrices for inputs of the dtype of ``x``."""
        matrices = rotation_matrices(angles if strength == 1 else angles * strength, rotation, x.dtype)
        return cls(matrices, x.dtype, strength, TensorSnapshot.of_values(angles))

    def is_valid(self, x: Tensor, angles: Tensor, strength: float) -> bool:
        """Whether the matrices were composed for these angles, this strength and the dtype of ``x``."""
        return x.dtype == self.dtype and strength == self.strength and self.angles.matches(angles)


@dataclass(frozen=True)
class CachedMergedLayer:
    """A copy of the base layer with the weight that merging ``adapter`` would give.

    ``sources`` are the tensors from which the weight was computed: the dictionary and key of each, and its snapshot.
    """

    layer: nn.Module
    active: str | list[str]  # the active adapters then; only ``adapter`` has an effect on this layer
    adapter: str
    strength: float
    base: nn.Module
    sources: tuple[tuple[Mapping[str, Any], str, TensorSnapshot], ...]

    @classmethod
    @torch.no_grad()
    def build(
        cls,
        active: str | list[str],
        adapter: str,
        strength: float,
        base: nn.Module,
        merged: tuple[Tensor, Tensor | None],
        parameters: Sequence[tuple[Mapping[str, Any], str]],
    ) -> CachedMergedLayer:
        """Copy ``base`` with the weight ``[out, in]`` and bias ``[out]`` of ``merged``, rounded to its dtype.

        ``parameters``: the dictionary and key of each tensor of angles or magnitudes that they were computed from.
        """
        layer = copy.deepcopy(base).requires_grad_(False)
        write_weight(layer, *merged)
        base_parameters: Mapping[str, Any] = base._parameters
        sources = [
            (base_parameters, name, TensorSnapshot.of_memory(tensor))
            for name, tensor in base_parameters.items()
            if tensor is not None
        ]
        sources += [(tensors, name, TensorSnapshot.of_values(tensors[name])) for tensors, name in parameters]
        return cls(layer, copy.copy(active), adapter, strength, base, tuple(sources))

    def is_valid(self, active: str | list[str], strengths: Mapping[str, float], modules: Mapping[str, Any]) -> bool:
        """Whether nothing has changed since; ``modules`` are those of the adapted layer."""
        if active != self.active or strengths[self.adapter] != self.strength or modules["base_layer"] is not self.base:
            return False
        return all(snapshot.matches(tensors[name]) for tensors, name, snapshot in self.sources)


class InferenceCache:
    """Composed rotations by side and adapter, and at most one merged layer."""

    def __init__(self) -> None:
        self.rotations: dict[tuple[str, str], CachedRotation] = {}
        self.merged_layer: CachedMergedLayer | None = None

    def clear(self) -> None:
        """Drop all entries and free their memory."""
        self.rotations.clear()
        self.merged_layer = None

    def matrices(
        self, key: tuple[str, str], x: Tensor, angles: Tensor, strength: float, rotation: Rotation
    ) -> tuple[Tensor, ...]:
        """Return the matrices for ``key`` (a side and an adapter); they are composed again if out of date."""
        cached = self.rotations.get(key)
        if cached is None or not cached.is_valid(x, angles, strength):
            cached = CachedRotation.compose(x, angles, strength, rotation)
            self.rotations[key] = cached
        return cached.matrices


def _same_bits(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one dtype have the same bits: true for values that are not a number, too."""
    if tensor.shape != other.shape:
        return False
    return torch.equal(tensor.detach().view(torch.uint8), other.view(torch.uint8))


def _version(tensor: Tensor) -> int:
    """Return torch's count of writes to ``tensor``; -1 if it was made in inference mode, which does not count them."""
    return -1 if tensor.is_inference() else tensor._version
