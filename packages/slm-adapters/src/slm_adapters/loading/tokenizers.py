"""The tokenizers of a base and of several adapters of it, which have their own chat templates but one vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from slm_adapters.base.base_lookup import BaseLocation, find_base
from slm_adapters.base.model_folder import ModelFolder
from slm_adapters.errors import AdapterError
from slm_adapters.loading.load import lacks_tokenizer, load_tokenizer, tokenizer_source


@dataclass(frozen=True)
class Tokenizers:
    """Tokenizers of models that generate together.

    Attributes:
        shared: Has the tokens of all of them, so that it decodes the texts of each.
        base: Encodes prompts of the base; None if the adapters were trained with another vocabulary.
        adapters: Encode prompts of the adapters, by name.
    """

    shared: PreTrainedTokenizerBase
    base: PreTrainedTokenizerBase | None
    adapters: Mapping[str, PreTrainedTokenizerBase]


def load_gguf_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a GGUF file, which splits text as the file says.

    slm-kv finds it by the entry point ``slm_kv.gguf_tokenizers``. Raises AdapterError for one that is not known.
    """
    return load_tokenizer(find_base(path), None)


def load_tokenizers(base: BaseLocation, adapters: Mapping[str, ModelFolder]) -> Tokenizers:
    """Load the tokenizer of each adapter, which is the base's where its folder has none, and that of the base.

    Raises AdapterError if the adapters have different vocabularies: they generate together, and a token of one would
    be another token, or none, of the other.
    """
    own = None if adapters and lacks_tokenizer(base) else load_tokenizer(base, None)
    loaded = {
        name: load_tokenizer(base, folder) if own is None or folder.has_tokenizer else own
        for name, folder in adapters.items()
    }
    shared = next(iter(loaded.values()), own)
    assert shared is not None
    vocabulary = shared.get_vocab()
    for name, tokenizer in loaded.items():
        if difference := vocabulary.items() ^ tokenizer.get_vocab().items():
            sources = [tokenizer_source(base, adapters[each]) for each in (next(iter(adapters)), name)]
            raise AdapterError(
                f"the tokenizers in {sources[0]} and {sources[1]} have different vocabularies "
                f"({min(difference)[0]!r} is in one of them only, or has another id); load these adapters separately"
            )
    if own is None:
        return Tokenizers(shared, shared, loaded)
    return Tokenizers(shared, own if own.get_vocab().items() <= vocabulary.items() else None, loaded)
