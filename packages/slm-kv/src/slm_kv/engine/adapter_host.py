"""Adding and removing adapters while requests run, for all engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_kv.engine.adapters import Adapters
from slm_kv.engine.base_copy import Attach, BaseCopy, NewAdapter
from slm_kv.engine.vocabulary import end_of_text_ids
from slm_kv.peft_models import adapter_names, base_model


class AdapterHost(ABC):
    """The models of an engine and their adapters, which may change between two steps."""

    def __init__(self, models: Sequence[PreTrainedModel], tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.models, self.tokenizer = list(models), tokenizer
        self.adapters = Adapters(self.models)
        self._end_ids: dict[str | None, frozenset[int]] = {}  # of adapters that were added

    @abstractmethod
    def copy_base(self) -> BaseCopy:
        """Copy the modules of the base, for an adapter to be attached. Takes milliseconds; copies no tensor.

        Raises:
            KVError: adapters cannot be added to this engine (8 bits).
        """

    @abstractmethod
    def _in_use(self) -> set[str | None]:
        """The adapters of requests that have not ended."""

    def install_adapter(self, adapter: NewAdapter) -> None:
        """Let requests use an adapter that was attached to a copy of the base. Takes microseconds.

        An adapter that is added has its own end-of-text tokens: those of the generation config of its model.

        Raises:
            KVError: its name is in use.
        """
        self.adapters.add(adapter.adapted, adapter.digests)
        model = adapter.adapted.model
        self.models.append(model)
        self._end_ids[adapter.name] = end_of_text_ids(base_model(model), self.tokenizer)

    def add_adapter(self, name: str, attach: Attach) -> None:
        """Add an adapter while requests run; their texts do not change.

        It waits until the adapter can be used. ``copy_base``, ``BaseCopy.attach`` and ``install_adapter`` do the same
        in three steps, the slow one of which may run on another thread, beside ``step``.

        Args:
            name: The name of the adapter, and its name in PEFT.
            attach: Attaches the adapter: ``lambda model: PeftModel.from_pretrained(model, folder, name)``.

        Raises:
            KVError: the name is in use, or the engine cannot use the adapter; the engine is as it was. Whatever
                ``attach`` raises is raised too.
        """
        self.adapters.check_new(name)
        self.install_adapter(self.copy_base().attach(name, attach))

    def remove_adapter(self, name: str) -> None:
        """Remove an adapter. Its requests are finished; then its weights are freed.

        Raises:
            KVError: no adapter has this name.
        """
        self.adapters.remove(name)
        self._discard_unused()

    def _discard_unused(self) -> None:
        """Free the removed adapters that no request uses any more."""
        if not self.adapters.removed:
            return
        for name in self.adapters.removed - self._in_use():
            self._discard(name)

    def _discard(self, name: str) -> None:
        """Free an adapter."""
        self.adapters.discard(name)
        self._end_ids.pop(name, None)
        self.models[1:] = [model for model in self.models[1:] if adapter_names(model)]
