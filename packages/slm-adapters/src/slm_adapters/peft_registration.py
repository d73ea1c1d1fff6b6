"""Registration of the butterfly method with PEFT as soon as PEFT is imported.

PEFT finds a method in three dictionaries, so the method must be in them before ``PeftModel.from_pretrained`` reads an
adapter. Importing PEFT takes seconds, so ``import slm_adapters`` does not import it. Instead, if PEFT is loaded
already, ``import slm_adapters`` registers at once; if not, it puts a finder in front of ``sys.meta_path`` that lets the
normal loader import PEFT and registers right afterwards (a post-import hook).

Order of imports: ``slm_adapters.butterfly.method`` starts with ``import peft``. If one of its modules is imported
first, the hook finds that package partly initialised and does nothing, because the package's ``__init__`` then
continues and registers. Modules that the method imports must not import PEFT themselves, or they would find it half
initialised; an import contract enforces this. If PEFT is half initialised in this thread when slm_adapters is
imported, there is nothing to register with yet; the next use of an exported name registers the method.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from slm_adapters.base.log_filters import quiet_bitsandbytes

METHOD = "slm_adapters.butterfly.method"
TRANSFORMERS = "transformers.integrations.peft"


def register_with_peft() -> None:
    """Register the butterfly method now if PEFT is loaded, else as soon as it is."""
    if sys.modules.get("peft") is None:
        if not any(isinstance(finder, PeftFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, PeftFinder())
            if transformers := sys.modules.get(TRANSFORMERS):
                import_peft_first(transformers)
        return
    peft = import_module("peft")  # waits while another thread imports it
    if not _is_initializing(peft):
        import_module(METHOD)


def _is_initializing(module: ModuleType) -> bool:
    """Whether this thread is still executing ``module``: the import system's own flag."""
    return bool(getattr(module.__spec__, "_initializing", False))


def import_peft_first(transformers: Any) -> None:
    """Make ``load_adapter`` of transformers' models import PEFT first; PEFT's import puts the method's guard there."""
    mixin = transformers.PeftAdapterMixin
    original = mixin.load_adapter

    @wraps(original)
    def load_adapter(*args: Any, **kwargs: Any) -> Any:
        import_module("peft")
        guarded = mixin.load_adapter
        return (original if guarded is load_adapter else guarded)(*args, **kwargs)

    load_adapter.replaces = original  # type: ignore[attr-defined]  # attributes of functions are not typed
    mixin.load_adapter = load_adapter


class PeftFinder(MetaPathFinder):
    """Finds PEFT, and transformers' use of it, where the other finders do, with a loader that does more afterwards.

    Calling ``find_spec`` has no side effect: transformers calls ``importlib.util.find_spec("peft")`` to check whether
    PEFT is installed, without importing it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in ("peft", TRANSFORMERS):
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = RegisteringLoader(spec.loader, self)
                return spec
        return None


class RegisteringLoader(Loader):
    """Executes a module with its own loader. After PEFT it imports the method, which registers itself."""

    def __init__(self, loader: Any, finder: PeftFinder):
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # Restore the loader that inspect, importlib.resources and others expect.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with quiet_bitsandbytes():  # PEFT imports bitsandbytes
            self._loader.exec_module(module)
        if module.__name__ == TRANSFORMERS:
            import_peft_first(module)
            return
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        import_module(METHOD)
