"""Several adapters over one base: one batch for all where the layers can mix, in turns where they cannot."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from typing import Any

from transformers import PreTrainedModel

from slm_kv.pages.weight_digests import digest
from slm_kv.errors import KVError
from slm_kv.engine.scheduler import Work

BASE = "__base__"  # PEFT's name, in a batch of several adapters, for none


class Adapters:
    """The adapters of several PeftModels over one base, by name. A plain model brings none; the first of ``models``
    answers for the base.

    Raises KVError for a name that two models have.
    """

    def __init__(self, models: Sequence[PreTrainedModel]) -> None:
        self._holders = [_Holder(model) for model in models]
        self._by_name = {name: holder for holder in self._holders for name in holder.names}
        self.names: tuple[str, ...] = tuple(name for holder in self._holders for name in holder.names)
        if len(self._by_name) < len(self.names):
            raise KVError(f"two models have an adapter of one name (they have {', '.join(self.names)}); rename one")
        self.default = self._holders[0].default
        self.refresh()

    def find(self, name: str | None) -> str | None:
        """The adapter called ``name``; of None the one that was active, and none for BASE. Raises KVError for one
        that is not there."""
        if name is None:
            return self.default
        if name == BASE:
            return None
        if name in self.names:
            return name
        known = ", ".join(self.names) or "none"
        raise KVError(f"no adapter is called {name!r}; there are: {known}")

    def root(self, name: str | None) -> bytes:
        """What the chain of known prefixes of a sequence begins with: its weights, digested."""
        return self._roots[name]

    def refresh(self) -> None:
        """Digest the weights anew."""
        self._roots: dict[str | None, bytes] = {}
        for holder in reversed(self._holders):
            self._roots |= holder.digests()

    def groups(self, work: tuple[Work, ...]) -> Generator[tuple[Any, list[Work], list[str] | None]]:
        """The calls that a step takes: the model, the work, and the names by row where it mixes several."""
        for holder in self._holders:
            yield from holder.groups([one for one in work if self._holder(one) is holder])

    def _holder(self, work: Work) -> _Holder:
        name = work.sequence.handle.adapter
        return self._holders[0] if name is None else self._by_name[name]


class _Holder:
    """One model and its adapters."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.names: tuple[str, ...] = tuple(getattr(model, "peft_config", ()))
        self.default = _active(model) if self.names else None
        self.mixes = bool(self.names) and all(map(_can_mix, _tuner_layers(model)))

    def groups(self, work: list[Work]) -> Generator[tuple[Any, list[Work], list[str] | None]]:
        by_adapter: dict[str | None, list[Work]] = {}
        for one in work:
            by_adapter.setdefault(one.sequence.handle.adapter, []).append(one)
        if len(by_adapter) > 1 and self.mixes:
            decoding = [one for one in work if one.count == 1]
            if decoding:
                yield self.model, decoding, [one.sequence.handle.adapter or BASE for one in decoding]
            by_adapter = {name: [one for one in group if one.count > 1] for name, group in by_adapter.items()}
        for name, group in by_adapter.items():
            if group:
                with self.only(name):
                    yield self.model, group, None

    def only(self, name: str | None) -> Any:
        """A context in which the adapter ``name`` alone acts."""
        if not self.names:
            return nullcontext()
        if name is None:
            return self.model.disable_adapter()
        if _active(self.model) != name:
            self.model.set_adapter(name, inference_mode=True)
        return nullcontext()

    def digests(self) -> dict[str | None, bytes]:
        state = dict(self.model.named_parameters(remove_duplicate=False)) | dict(self.model.named_buffers())
        own = {name: {key for key in state if f".{name}." in key or key.endswith(f".{name}")} for name in self.names}
        shared = state.keys() - set().union(*own.values()) if own else state.keys()
        base = digest((key, state[key]) for key in sorted(shared))
        roots: dict[str | None, bytes] = {None: base}
        for name, keys in own.items():
            settings = repr(sorted(self.model.peft_config[name].to_dict().items(), key=str))
            roots[name] = digest(((key, state[key]) for key in sorted(keys)), base + settings.encode())
        return roots


def each_alone(model: Any) -> Generator[str | None]:
    """None while no adapter of ``model`` acts, then each by name while it alone does; closed, all is as it was."""
    holder, flags = _Holder(model), [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        for name in (None, *holder.names):
            with holder.only(name):
                yield name
    finally:
        with holder.only(holder.default):
            for weight, trained in flags:
                weight.requires_grad_(trained)


def plain(model: Any) -> Any:
    """``model`` without what holds its adapters."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _active(model: Any) -> str:
    active = model.active_adapter
    if isinstance(active, str):
        return active
    if len(active) == 1:
        return str(active[0])
    raise KVError(f"several adapters act at once ({', '.join(active)}): set one, or merge them")


def _tuner_layers(model: Any) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _can_mix(layer: Any) -> bool:
    return hasattr(layer, "_mixed_batch_forward") or "adapter_names" in inspect.signature(layer.forward).parameters
