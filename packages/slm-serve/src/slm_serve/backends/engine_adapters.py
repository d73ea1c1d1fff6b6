"""The models that slm-kv's engine serves, which change when adapters are loaded and unloaded.

All methods run on the server's event loop. The engine's thread copies the base's modules and adds the adapter, between
two steps; reading and checking it takes place on other threads meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm_kv import BASE_ADAPTER, TextEngine
from slm_serve.backends.served_models import ServedModel
from slm_serve.errors import unknown_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from slm_adapters import AdapterLoader

# Runs a function on the engine's thread, between two steps, and returns its result.
OnEngine = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass
class EngineAdapters:
    """The served models of an engine.

    Args:
        engine: the engine.
        served: served models by name, the default first.
        names: the engine's name for each served adapter, by served name; does not contain the base.
        tokenizers: as in the protocol.
        loader: loads further adapters.
    """

    engine: TextEngine
    served: dict[str, ServedModel]
    names: dict[str, str]
    tokenizers: dict[str, PreTrainedTokenizerBase]
    loader: AdapterLoader | None = None
    _numbers: itertools.count[int] = field(init=False)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(len(self.names))

    @property
    def base(self) -> str:
        """The served name of the base."""
        return next(model.name for model in self.served.values() if model.kind == "base")

    def engine_name(self, model: str) -> str:
        """Return the engine's name for a served model. Raises RequestError 404 if it was unloaded."""
        if model in self.names:
            return self.names[model]
        if model in self.served:
            return BASE_ADAPTER
        raise unknown_model(model, self.served)

    async def load(self, name: str, folder: Path, on_engine: OnEngine) -> None:
        """Serve the adapter in ``folder`` as ``name``, instead of the one that has this name now, if any.

        Raises ValueError, one sentence, for an adapter that cannot be served; nothing has changed then.
        """
        loader = self.loader
        assert loader, "adapters are loaded by a backend that got none from load_adapters"
        adapter = await asyncio.to_thread(loader.read, folder)
        engine_name = f"adapter{next(self._numbers):03}"  # never used again: an older adapter may still be running
        copy = await on_engine(self.engine.copy_base)
        new = await asyncio.to_thread(
            copy.attach, engine_name, lambda model: loader.attach(model, adapter, engine_name)
        )
        await on_engine(lambda: self.engine.install_adapter(new))
        replaced = self.names.get(name)
        self.names[name] = engine_name
        self.served[name] = ServedModel(name, "adapter", self.base, "unmerged")
        self._set_tokenizer(name, adapter.tokenizer)
        if replaced:
            await on_engine(lambda: self.engine.remove_adapter(replaced))

    async def unload(self, name: str, on_engine: OnEngine) -> None:
        """Stop serving the adapter ``name``. Its weights are freed when its last request has ended."""
        engine_name = self.names.pop(name)
        del self.served[name]
        self.tokenizers.pop(name, None)
        await on_engine(lambda: self.engine.remove_adapter(engine_name))

    def _set_tokenizer(self, name: str, own: PreTrainedTokenizerBase | None) -> None:
        """Prompts of an adapter without a tokenizer are encoded by the base's."""
        self.tokenizers[name] = self.tokenizers[self.base] if own is None else own
