"""Compositions shared by the layers of a model: the layer that runs first composes the rotations of all.

A layer reads its matrices at each forward pass and checks that they are those of its present angles. Layers take part
from their second forward pass on, so those that never run are not composed, and copies of a model find their layers
themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from slm_adapters.butterfly.joint_composition import JointComposition
from slm_adapters.butterfly.method.inference_cache import TensorSnapshot
from slm_adapters.butterfly.structure import Rotation

Matrices = tuple[Tensor, ...]


class Key(NamedTuple):
    """What the layers of one composition have in common. ``dtype``: of the matrices."""

    adapter: str
    rotation: Rotation
    dtype: torch.dtype
    device: torch.device
    angle_dtype: torch.dtype


class SharedCompositions:
    """Composed matrices of all layers of a model. Layers are held weakly, and a copy starts without any."""

    def __init__(self) -> None:
        self._groups: dict[Key, _Group] = {}
        self._originals: dict[int, weakref.ref[Tensor]] = {}

    def __reduce__(self) -> tuple[type[SharedCompositions], tuple[()]]:
        return SharedCompositions, ()  # also for copy.deepcopy: the layers of a copy are other ones

    def share_with(self, layers: Iterable[Any]) -> None:
        """Let ``layers``, with adapters that were just added, compose their rotations together."""
        for layer in layers:
            layer.compositions = self
            for adapter in layer.rotations:
                angles = [values for _, _, values in layer.angles(adapter)]
                self._originals |= {id(values): weakref.ref(values) for values in angles}

    def clear(self) -> None:
        """Drop the matrices and free their memory."""
        for group in self._groups.values():
            group.composition = None

    def forget(self, adapter: str) -> None:
        """Drop everything about ``adapter``."""
        self._groups = {key: group for key, group in self._groups.items() if key.adapter != adapter}

    def matrices(self, layer: Any, side: str, adapter: str, dtype: torch.dtype) -> Matrices:
        """Return the matrices ``[G, m, m]`` of one side of ``layer``, with a gradient for its angles."""
        angles: nn.Parameter = getattr(layer, side)[adapter]
        key = Key(adapter, layer.rotations[adapter][side], dtype, angles.device, angles.dtype)
        return self._groups.setdefault(key, _Group()).matrices(key, layer, side, self.can_share)

    def can_share(self, angles: Tensor, key: Key) -> bool:
        """Whether ``angles`` can be composed with those of other layers.

        Under torch.distributed only parameters that no library has replaced: FSDP2 shards the gradients of a block as
        soon as its backward pass ends, so blocks must not share one. DeepSpeed's parameters have another shape while
        they are partitioned.
        """
        if type(angles) is not nn.Parameter or angles.shape != key.rotation.angle_shape or _has_hooks(angles):
            return False
        if (angles.device, angles.dtype) != (key.device, key.angle_dtype):
            return False
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return True
        original = self._originals.get(id(angles))
        return original is not None and original() is angles


def compose_alone(angles: Tensor, strength: float, rotation: Rotation, dtype: torch.dtype) -> Matrices:
    """Return the matrices ``[G, m, m]`` for ``angles`` without those of other layers."""
    return _Composition([angles], [strength], rotation, dtype).matrices[0]


class _Group:
    def __init__(self) -> None:
        self.members: dict[tuple[int, str], weakref.ref[Any]] = {}
        self.composition: _Composition | None = None

    def matrices(self, key: Key, layer: Any, side: str, can_share: Callable[[Tensor, Key], bool]) -> Matrices:
        angles, strength = getattr(layer, side)[key.adapter], layer.strength[key.adapter]
        if not can_share(angles, key):
            # Not even with its own earlier pass: when a checkpointed block of FSDP2 is recomputed, the gradient of an
            # earlier composition would come after the block's gradients have been reduced.
            return compose_alone(angles, strength, key.rotation, key.dtype)
        if self.composition is not None and (matrices := self.composition.read(angles, strength)):
            return matrices
        known = self.members.get((id(layer), side))
        if known is None or known() is not layer:
            self.members[id(layer), side] = weakref.ref(layer)
            return compose_alone(angles, strength, key.rotation, key.dtype)
        self.composition = None  # free the old matrices first
        members = {id(angles): (angles, strength)} | self._current_angles(key, can_share)
        parameters, strengths = zip(*members.values(), strict=True)
        composition = _Composition(parameters, strengths, key.rotation, key.dtype)
        if type(composition.matrices[0][0]) is Tensor:  # not a fake one
            self.composition = composition
        return composition.read(angles, strength) or composition.matrices[0]

    def _current_angles(
        self, key: Key, can_share: Callable[[Tensor, Key], bool]
    ) -> dict[int, tuple[nn.Parameter, float]]:
        """Return the angles and strength of each member, and drop those that are gone or have another rotation."""
        angles: dict[int, tuple[nn.Parameter, float]] = {}
        for (number, side), reference in list(self.members.items()):
            layer = reference()
            if layer is None or layer.rotations.get(key.adapter, {}).get(side) != key.rotation:
                del self.members[number, side]
                continue
            parameter = getattr(layer, side)[key.adapter]
            if can_share(parameter, key) and not layer.merged:
                angles[id(parameter)] = (parameter, layer.strength[key.adapter])
        return angles


def is_plain(*tensors: Tensor) -> bool:
    """Whether none of ``tensors`` is sharded, fake, traced or without values: what operations read values of."""
    return all(type(each) in (Tensor, nn.Parameter) and each.device.type != "meta" for each in tensors)


def _has_hooks(angles: Tensor) -> bool:
    """Whether ``angles`` have hooks, which autograd would call with None if the layer was not called."""
    return bool(angles._backward_hooks)


class _Composition:
    """Matrices of several layers, and what they were composed from.

    On a CPU the values of the angles are compared. On another device that would wait for it, and torch does not count
    writes through ``.data``; there, a layer reads its matrices once, and none does after a backward pass.
    """

    def __init__(
        self, angles: Sequence[Tensor], strengths: Sequence[float], rotation: Rotation, dtype: torch.dtype
    ) -> None:
        self.angles = angles
        self.strengths = strengths
        self.trained = [each.requires_grad for each in angles]
        self.positions = {id(each): position for position, each in enumerate(angles)}  # ids of tensors that are held
        self.read_positions = set[int]()
        self.backward = _BackwardRecord()
        # The graph holds the record, not this object: that would be a cycle that Python cannot free.
        joint = JointComposition(rotation, dtype, tuple(strengths), self.backward.note)
        # A graph is recorded even in passes without gradients: reentrant checkpointing runs a second one with them.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(angles[0].device.type, enabled=False):
            values = torch.stack([each.detach().flatten() for each in angles])
            self.matrices = joint.compose(angles, values)
        self.snapshots = [TensorSnapshot.of_copy(*pair) for pair in zip(angles, values, strict=True)]

    def read(self, angles: Tensor, strength: float) -> Matrices | None:
        """Return the matrices for ``angles``, or None if they may be out of date."""
        position = self.positions.get(id(angles))
        if position is None or strength != self.strengths[position] or angles.requires_grad != self.trained[position]:
            return None
        snapshot = self.snapshots[position]
        if not snapshot.matches(angles) or (snapshot.version is not None and self._may_be_outdated(position)):
            return None
        if not self.backward.hooks_checked and len(self.angles) > 1 and any(map(_has_hooks, self.angles)):
            return None
        self.backward.hooks_checked = True
        self.read_positions.add(position)
        return self.matrices[position]

    def _may_be_outdated(self, position: int) -> bool:
        """Whether there was an opportunity to write to angles unnoticed since the matrices were composed."""
        if torch._C._current_graph_task_id() != -1:  # within a backward pass: gradient checkpointing recomputes
            return position in self.backward.positions
        return position in self.read_positions or bool(self.backward.positions)


class _BackwardRecord:
    """The positions of a composition that backward passes have reached."""

    def __init__(self) -> None:
        self.positions = set[int]()
        self.hooks_checked = False  # since the last backward pass

    def note(self, positions: Iterable[int]) -> None:
        self.positions.update(positions)
        self.hooks_checked = False
