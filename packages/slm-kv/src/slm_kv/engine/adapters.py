"""Several adapters over one base model: which calls of the model a step needs, and digests of their weights."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from secrets import token_bytes
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from slm_kv.engine.scheduler import Work
from slm_kv.errors import KVError
from slm_kv.pages.weight_digests import weight_digest
from slm_kv.peft_models import (
    active_adapter,
    adapter_names,
    delete_adapter,
    is_of_adapter,
    learns_prompt,
    only_adapter,
    supports_mixed_batches,
)

BASE_ADAPTER = "__base__"  # peft's name for no adapter in a batch with several


@dataclass(frozen=True)
class ModelCall:
    """One call of a model. ``row_adapters`` names each row's adapter if the batch mixes several; else it is None."""

    model: Any
    work: list[Work]
    row_adapters: list[str] | None


class Adapters:
    """The adapters of several PeftModels over one base, by name. The first of ``models`` also serves the base.

    Attributes:
        names: The adapters that requests can name.
        removed: Those that they cannot name any more, but that running requests still use.

    Args:
        models: The models.
        with_digests: Whether prefixes will be cached. Without it no digest is computed.

    Raises:
        KVError: two models have an adapter of the same name, several adapters of one model are active, or one learns
            a prompt, which only PEFT's own ``forward`` adds.
    """

    def __init__(self, models: Sequence[PreTrainedModel], *, with_digests: bool = True) -> None:
        self._models = [AdaptedModel(model) for model in models]
        self._by_name = {name: model for model in self._models for name in model.names}
        self.names: tuple[str, ...] = tuple(name for model in self._models for name in model.names)
        self.removed: frozenset[str] = frozenset()
        if len(self._by_name) < len(self.names):
            raise KVError(f"two models have an adapter of the same name ({', '.join(self.names)}); rename one")
        self.default = self._models[0].default
        self._default_removed = False
        self._base_identity, self._prefix_roots = _digests(self._models) if with_digests else (b"", {})

    def resolve(self, name: str | None) -> str | None:
        """Resolve the adapter of a request: None stands for the active adapter, BASE_ADAPTER for no adapter (None).

        Raises:
            KVError: there is no adapter of that name.
        """
        if name is None and self._default_removed:
            raise KVError("the adapter that was active at the start was removed; name another one, or __base__")
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
        """The root of the hash chain for prefixes computed with an adapter, different for different weights."""
        return self._prefix_roots[name]

    def refresh(self) -> None:
        """Change all roots, after weights have changed."""
        self._base_identity, self._prefix_roots = _digests(self._models)

    def digests_on_base(self, model: AdaptedModel) -> dict[str, bytes]:
        """Digests of the adapters of a model that is a copy of the base; thread-safe."""
        return model.digests(self._base_identity)

    def check_new(self, name: str) -> None:
        """Raise KVError if an adapter of this name exists, or did and is still in use."""
        if name in self._by_name or name == BASE_ADAPTER:
            raise KVError(f"an adapter is called {name!r} already; give another name, or remove it first")

    def add(self, model: AdaptedModel, digests: Mapping[str, bytes]) -> None:
        """Add a model that was copied from the base, with its adapters and their ``digests``."""
        for name in model.names:
            self.check_new(name)
        self._models.append(model)
        self._by_name |= dict.fromkeys(model.names, model)
        self._prefix_roots.update(digests.items())
        self.names = (*self.names, *model.names)

    def remove(self, name: str) -> None:
        """Let no further request name the adapter. Raises KVError if there is no such adapter."""
        if name not in self.names:
            self.resolve(name)
            raise KVError(f"{name!r} is the base, which cannot be removed")
        self.names = tuple(other for other in self.names if other != name)
        self.removed |= {name}
        self._default_removed |= name == self.default

    def discard(self, name: str) -> None:
        """Free the weights of a removed adapter that no request uses any more."""
        model = self._by_name.pop(name)
        self.removed -= {name}
        del self._prefix_roots[name]
        model.delete(name)
        if not model.names and model is not self._models[0]:
            self._models.remove(model)

    def calls(self, work: tuple[Work, ...], *, mix: bool = True) -> Generator[ModelCall]:
        """Yield the calls that a step needs. The adapter of a call is active until the next call is requested.

        Without ``mix``, each call has one adapter.
        """
        for model in self._models:
            yield from model.calls([item for item in work if self._model_for(item) is model], mix)

    def _model_for(self, work: Work) -> AdaptedModel:
        return self._model_with(work.sequence.handle.adapter)

    def _model_with(self, name: str | None) -> AdaptedModel:
        return self._models[0] if name is None else self._by_name[name]


class AdaptedModel:
    """One model and its adapters.

    Raises:
        KVError: several adapters are active, or one learns a prompt, which only PEFT's own ``forward`` adds.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.names = adapter_names(model)
        self.default = active_adapter(model)
        self.supports_mixed_batches = supports_mixed_batches(model)
        for name in self.names:
            if learns_prompt(model, name):
                raise KVError(
                    f"adapter {name!r} learns a prompt, which engines do not add; use the model's own generate"
                )

    def delete(self, name: str) -> None:
        """Delete an adapter's weights. Without any adapter left, the base model is called directly."""
        self.names = tuple(other for other in self.names if other != name)
        self.model = delete_adapter(self.model, name)

    def calls(self, work: list[Work], mix: bool) -> Generator[ModelCall]:
        """Yield one call for the decode rows of all adapters if the layers can mix them, else a call for each adapter.

        Prompts always have a call for each adapter: PEFT chooses the adapter by batch entry, and all prompts of a call
        share one entry.
        """
        by_adapter: dict[str | None, list[Work]] = {}
        for item in work:
            by_adapter.setdefault(item.sequence.handle.adapter, []).append(item)
        if mix and len(by_adapter) > 1 and self.supports_mixed_batches:
            decoding = [item for item in work if item.decodes]
            if decoding:
                names = [item.sequence.handle.adapter or BASE_ADAPTER for item in decoding for _ in range(item.count)]
                yield ModelCall(self.model, decoding, names)
            by_adapter = {name: [item for item in items if not item.decodes] for name, items in by_adapter.items()}
        for name, items in by_adapter.items():
            if items:
                with only_adapter(self.model, name):
                    yield ModelCall(self.model, items, None)

    def digests(self, base_identity: bytes) -> dict[str, bytes]:
        """Digests of each adapter's weights and settings on top of those of a base."""
        state, digests = self._state(), {}
        for name in self.names:
            settings = repr(sorted(self.model.peft_config[name].to_dict().items(), key=str))
            tensors = ((key, state[key]) for key in sorted(self._keys(name, state)))
            digests[name] = weight_digest(tensors, base_identity + settings.encode())
        return digests

    def _state(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters(remove_duplicate=False)) | dict(self.model.named_buffers())

    def _keys(self, name: str, state: Mapping[str, Tensor]) -> set[str]:
        return {key for key in state if is_of_adapter(key, name)}


def _digests(models: Sequence[AdaptedModel]) -> tuple[bytes, dict[str | None, bytes]]:
    """An identity of the base, which is that of the first model, and the roots of all prefixes.

    The identity is random, not a digest of the weights (half a second for 540 MB): prefixes are known to this process
    only, and after each change of weights they must not match those before it.
    """
    base_identity = token_bytes(16)
    roots: dict[str | None, bytes] = {None: base_identity}
    for model in models:
        roots.update(model.digests(base_identity if model is models[0] else token_bytes(16)).items())
    return base_identity, roots
