"""Several adapters over one base model: which calls of the model a step needs, and digests of their weights."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from slm_kv.engine.scheduler import Work
from slm_kv.errors import KVError
from slm_kv.pages.weight_digests import weight_digest
from slm_kv.peft_models import active_adapter, adapter_names, learns_prompt, only_adapter, supports_mixed_batches

BASE_ADAPTER = "__base__"  # peft's name for no adapter in a batch with several


@dataclass(frozen=True)
class ModelCall:
    """One call of a model. ``row_adapters`` names each row's adapter if the batch mixes several; else it is None."""

    model: Any
    work: list[Work]
    row_adapters: list[str] | None


class Adapters:
    """The adapters of several PeftModels over one base, by name. The first of ``models`` also serves the base.

    Raises:
        KVError: two models have an adapter of the same name, several adapters of one model are active, or one learns
            a prompt, which only PEFT's own ``forward`` adds.
    """

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        self._models = [_AdaptedModel(model) for model in models]
        self._by_name = {name: model for model in self._models for name in model.names}
        self.names: tuple[str, ...] = tuple(name for model in self._models for name in model.names)
        if len(self._by_name) < len(self.names):
            raise KVError(f"two models have an adapter of the same name ({', '.join(self.names)}); rename one")
        for name, model in self._by_name.items():
            if learns_prompt(model.model, name):
                raise KVError(
                    f"adapter {name!r} learns a prompt, which engines do not add; use the model's own generate"
                )
        self.default = self._models[0].default
        self.refresh()

    def resolve(self, name: str | None) -> str | None:
        """Resolve the adapter of a request: None stands for the active adapter, BASE_ADAPTER for no adapter (None).

        Raises:
            KVError: there is no adapter of that name.
        """
        if name is None:
            return self.default
        if name == BASE_ADAPTER:
            return None
        if name in self.names:
            return name
        known = ", ".join(self.names) or "none"
        raise KVError(f"no adapter is called {name!r}; known adapters: {known}")

    def model_of(self, name: str | None) -> PreTrainedModel:
        """The model that has the adapter; the first one for None."""
        model: PreTrainedModel = self._model_with(name).model
        return model

    def active(self, name: str | None) -> AbstractContextManager[Any]:
        """Return a context in which the adapter is the active one of its model; None disables all of the first."""
        return only_adapter(self.model_of(name), name)

    def prefix_root(self, name: str | None) -> bytes:
        """The root of the hash chain for prefixes computed with an adapter: a digest of its and the base's weights."""
        return self._prefix_roots[name]

    def refresh(self) -> None:
        """Compute the digests again, after weights have changed."""
        self._prefix_roots: dict[str | None, bytes] = {}
        for model in reversed(self._models):  # the digest of the base is that of the first model
            self._prefix_roots |= model.digests()

    def calls(self, work: tuple[Work, ...]) -> Generator[ModelCall]:
        """Yield the calls that a step needs. The adapter of a call is active until the next call is requested."""
        for model in self._models:
            yield from model.calls([item for item in work if self._model_for(item) is model])

    def _model_for(self, work: Work) -> _AdaptedModel:
        return self._model_with(work.sequence.handle.adapter)

    def _model_with(self, name: str | None) -> _AdaptedModel:
        return self._models[0] if name is None else self._by_name[name]


class _AdaptedModel:
    """One model and its adapters."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.names = adapter_names(model)
        self.default = active_adapter(model)
        self.supports_mixed_batches = supports_mixed_batches(model)

    def calls(self, work: list[Work]) -> Generator[ModelCall]:
        """Yield one call for the decode rows of all adapters if the layers can mix them, else a call for each adapter.

        Prompts always have a call for each adapter: PEFT chooses the adapter by batch entry, and all prompts of a call
        share one entry.
        """
        by_adapter: dict[str | None, list[Work]] = {}
        for item in work:
            by_adapter.setdefault(item.sequence.handle.adapter, []).append(item)
        if len(by_adapter) > 1 and self.supports_mixed_batches:
            decoding = [item for item in work if item.count == 1]
            if decoding:
                names = [item.sequence.handle.adapter or BASE_ADAPTER for item in decoding]
                yield ModelCall(self.model, decoding, names)
            by_adapter = {name: [item for item in items if item.count > 1] for name, items in by_adapter.items()}
        for name, items in by_adapter.items():
            if items:
                with only_adapter(self.model, name):
                    yield ModelCall(self.model, items, None)

    def digests(self) -> dict[str | None, bytes]:
        """Digests of the base's weights (None) and of each adapter's weights and settings on top of them."""
        state = dict(self.model.named_parameters(remove_duplicate=False)) | dict(self.model.named_buffers())
        keys_by_adapter = {
            name: {key for key in state if f".{name}." in key or key.endswith(f".{name}")} for name in self.names
        }
        base_keys = state.keys() - set().union(*keys_by_adapter.values()) if keys_by_adapter else state.keys()
        base_digest = weight_digest((key, state[key]) for key in sorted(base_keys))
        digests: dict[str | None, bytes] = {None: base_digest}
        for name, keys in keys_by_adapter.items():
            settings = repr(sorted(self.model.peft_config[name].to_dict().items(), key=str))
            digests[name] = weight_digest(((key, state[key]) for key in sorted(keys)), base_digest + settings.encode())
        return digests
