"""A device without float64, emulated on the CPU: what is allowed on it, and what it may be mixed with, is as on MPS.

Its tensors compute on the CPU. A float64 tensor cannot be created on it or moved to it, and an operation with tensors
of it and of the CPU is an error, except for numbers. torch 2.13 registers it for the rest of the process, so programs
that use it run in a process of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "emulated"
_aten = torch.ops.aten
_MIX_DEVICES = {_aten.copy_.default, _aten._to_copy.default}
# Indices may be on the CPU.
_MIX_DEVICES |= {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}


class _Backend(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class DeviceTensor(Tensor):
    """A tensor of the emulated device. ``on_cpu`` has its values."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, on_cpu: Tensor) -> DeviceTensor:
        if on_cpu.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"the device {NAME} has no float64")  # as MPS: a TypeError
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls, on_cpu.shape, strides=on_cpu.stride(), storage_offset=on_cpu.storage_offset(), dtype=on_cpu.dtype,
            layout=on_cpu.layout, device=torch.device(NAME, 0),
        )  # fmt: skip
        made.on_cpu = on_cpu
        tensor: DeviceTensor = made
        return tensor

    def tolist(self) -> Any:
        return self.on_cpu.tolist()

    def data_ptr(self) -> int:
        return self.on_cpu.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.on_cpu.untyped_storage()

    __torch_dispatch__: Any = staticmethod(lambda func, types, args=(), kwargs=None: _compute(func, args, kwargs or {}))


class _EmulatedDevice(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


@contextmanager
def emulated_device() -> Iterator[torch.device]:
    """Emulate the device within the block; yield it. Not for threads that the block starts."""
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) is an operation on a tensor of the CPU
    usual: Any = torch._C._InferenceMode
    # torch 2.13 cannot make views of inference tensors of a subclass.
    inference: Any = torch._C
    inference._InferenceMode = lambda enabled: torch.set_grad_enabled(not enabled and torch.is_grad_enabled())
    try:
        with _EmulatedDevice():
            yield torch.device(NAME, 0)
    finally:
        inference._InferenceMode = usual
        torch._C._set_only_lift_cpu_tensors(False)


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    is_on_device = any(isinstance(tensor, DeviceTensor) for tensor in tensors)
    others = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor) and tensor.dim()]
    if is_on_device and others and func not in _MIX_DEVICES:
        raise RuntimeError(f"{func}: tensors on {NAME} and on the CPU")
    named = kwargs.get("device")
    if named is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
        stays = torch.device(named).type == NAME
    else:
        stays = isinstance(args[0], DeviceTensor) if func is _aten.copy_.default else is_on_device
    values = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    results = tree_map(lambda leaf: DeviceTensor(leaf) if stays and isinstance(leaf, Tensor) else leaf, values)
    return return_and_correct_aliasing(func, args, kwargs, results) if is_on_device and stays else results


def _values(leaf: Any) -> Any:
    return leaf.on_cpu if isinstance(leaf, DeviceTensor) else leaf
