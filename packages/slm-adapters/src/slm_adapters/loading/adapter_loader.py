"""``AdapterLoader``: further adapters for a base that is in memory and in use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from slm_adapters.base.base_lookup import BaseLocation, find_base_for
from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.base.vocabulary import check_vocabulary, embedding_rows
from slm_adapters.errors import AdapterError
from slm_adapters.loading.added_rows import recorded_rows
from slm_adapters.loading.end_tokens import add_end_ids
from slm_adapters.loading.load import load_tokenizer, read_adapter_folder
from slm_adapters.loading.tokenizers import Tokenizers

# Values of PEFT's init_lora_weights, besides true and false, that leave the base's weights alone; PiSSA, OLoRA and
# others subtract from them.
INITS_KEEPING_BASE = ("gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter that ``AdapterLoader.read`` has checked. ``tokenizer`` is None if it uses the base's."""

    folder: ModelFolder
    tokenizer: PreTrainedTokenizerBase | None


@dataclass(frozen=True)
class AdapterLoader:
    """Loads adapters for a base in memory. Thread-safe.

    Attributes:
        base: The base.
        tokenizers: Those with which it is in use: further adapters cannot have other tokens.
        four_bit: Whether the base's weights are in 4 bits.
    """

    base: BaseLocation
    tokenizers: Tokenizers
    four_bit: bool

    def read(self, path: str | Path) -> AdapterFolder:
        """Read an adapter's folder and check whether it can be attached to the base as it is.

        Raises:
            AdapterError: The folder is damaged or holds no adapter; the adapter was trained on another base, with
                other tokens or over weights of another precision; or attaching it would change the base's weights.
        """
        folder = read_adapter_folder(path)
        if find_base_for(self.base.name, folder).revision not in (None, self.base.revision):
            raise AdapterError(f"the adapter in {path} was trained on another revision of {self.base.name}")
        if folder.four_bit != self.four_bit:
            weights = ("4-bit weights", "weights that are not in 4 bits")
            trained, loaded = weights if folder.four_bit else reversed(weights)
            raise AdapterError(
                f"the adapter in {path} was trained over {trained}, and the base was loaded with {loaded}; give it "
                "when the base is loaded"
            )
        check_keeps_base(folder)
        return AdapterFolder(folder, self._own_tokenizer(folder))

    def attach(self, model: PreTrainedModel, adapter: AdapterFolder, name: str) -> PreTrainedModel:
        """Return a PeftModel around ``model``, a copy of the base, with the adapter under the name ``name``.

        The adapter's end-of-text tokens are added to the model's generation config.

        Raises:
            AdapterError: The adapter does not fit the base.
        """
        from slm_adapters.loading.attach import attach_adapter  # imports PEFT: seconds that a plain model does not need

        folder = adapter.folder
        rows = embedding_rows(model)
        if recorded_rows(folder, model) > rows:
            raise AdapterError(
                f"the adapter in {folder.path} has tokens of its own, which the base of {rows} tokens does not have; "
                "give it when the base is loaded, or merge it"
            )
        if adapter.tokenizer is not None:
            check_vocabulary(adapter.tokenizer, model, str(folder.path))
        add_end_ids(model, [folder])
        return attach_adapter(model, folder, self.base.name, name).requires_grad_(False)

    def _own_tokenizer(self, folder: ModelFolder) -> PreTrainedTokenizerBase | None:
        """Return the adapter's tokenizer. Raises AdapterError if it has other tokens than the one in use."""
        if not folder.has_tokenizer and self.tokenizers.base is not None:
            return None
        own = load_tokenizer(self.base, folder)
        if difference := own.get_vocab().items() - self.tokenizers.shared.get_vocab().items():
            raise AdapterError(
                f"the tokenizer of the adapter in {folder.path} has another vocabulary than the one in use "
                f"({min(difference)[0]!r} is in one of them only, or has another id); load the adapter separately"
            )
        return own


def check_keeps_base(folder: ModelFolder) -> None:
    """Raise AdapterError for settings with which PEFT writes into the base, which other adapters and requests use."""
    config: dict[str, Any] = folder.config
    init, bias = config.get("init_lora_weights", True), config.get("bias") or "none"
    if isinstance(init, str) and init.lower() not in INITS_KEEPING_BASE:
        setting = f"init_lora_weights={init!r}"
    elif bias != "none":
        setting = f"bias={bias!r}"
    elif config.get("layer_replication"):
        setting = "layer_replication"
    else:
        return
    raise AdapterError(
        f"the adapter in {folder.path} changes the base ({setting}), which other adapters and requests use; "
        "merge it first"
    )
