"""Importing transformers without torch's compiler, distributed tensors and scikit-learn: 3 s of CPU and 150 MB less.

transformers' modelling code imports the compiler for a class that one kind of mask uses and to mark functions that must
not be compiled, and distributed tensors to recognise them. A process that generates on a CPU neither compiles nor
shards. Where scikit-learn is installed, transformers imports it for assisted generation, which is not used here.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
MASK_CLASSES = "torch._dynamo._trace_wrapped_higher_order_op"
MARKS = ("allow_in_graph", "assume_constant_result", "disable")  # decorators for functions
MODELLING_CODE = ("transformers.modeling_utils", "transformers.masking_utils")


def import_modelling_code(device: str | None = None) -> None:
    """Import transformers' modelling code for a process that only generates on ``device``, if that is a CPU.

    For a command line, which owns its process: afterwards torch and transformers say that ``torch.distributed`` is not
    available, as a torch does that was built without it, and functions are not marked for the compiler until something
    else of it is used, which imports it. Does nothing if the modelling code was imported before.
    """
    with _paused_collections():
        _import(device)


@contextmanager
def _paused_collections() -> Iterator[None]:
    """Without garbage collections, which take a second: each looks at what was imported before, and frees nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _import(device: str | None) -> None:
    import torch.distributed

    has_gpu = any(backend.is_available() for backend in (torch.cuda, torch.backends.mps, torch.xpu))
    on_cpu = device == "cpu" or (device is None and not has_gpu)
    if not on_cpu or sys.modules.keys() & {COMPILER, *MODELLING_CODE}:
        return
    torch.distributed.is_available = lambda: False
    sys.modules[COMPILER] = _Compiler(COMPILER)
    classes = sys.modules[MASK_CLASSES] = _MaskClasses(MASK_CLASSES)
    with _without_scikit_learn():
        for name in (*MODELLING_CODE, "transformers.generation.utils"):
            import_module(name)
    if sys.modules.get(MASK_CLASSES) is classes:
        del sys.modules[MASK_CLASSES]


@contextmanager
def _without_scikit_learn() -> Iterator[None]:
    """Let transformers' modules believe, while they are imported, that scikit-learn is not installed."""
    utils: Any = import_module("transformers.utils")
    available = utils.is_sklearn_available
    utils.is_sklearn_available = lambda: False
    try:
        yield
    finally:
        utils.is_sklearn_available = available


class _OnDemand(ModuleType):
    """Stands for a module, which is imported when an attribute of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # which the import of a submodule asks for
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


class _Compiler(_OnDemand):
    """Stands for the compiler, but for its marks."""

    def __getattr__(self, name: str) -> Any:
        return _unmarked if name in MARKS else super().__getattr__(name)


class _MaskClasses(_OnDemand):
    """Stands for a module of classes: a class is a function that makes an instance, until the compiler is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not isinstance(sys.modules.get(COMPILER), _Compiler):
            return super().__getattr__(name)
        return lambda *args, **options: getattr(import_module(self.__name__), name)(*args, **options)


def _unmarked(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Callable[..., Any]:
    """A decorator, with or without options, that returns the function as it is."""
    return function if function is not None else _unmarked
