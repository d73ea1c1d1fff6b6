"""The base model: configuration and tokenizer by name, and loading of its weights.

Names are looked up by slm_adapters, which reports what is missing or damaged as an AdapterError.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from slm_adapters import (
    BaseLocation,
    apply_soft_cap,
    as_adapter_error,
    check_gguf_model,
    embedding_rows,
    find_base,
    find_config_fault,
    find_token_without_row,
    gguf_weight_options,
    hub_error_reason,
    load_tokenizer,
    parse_gguf_once,
    probe_base,
    quiet_bitsandbytes,
)
from slm_data import Documents
from slm_train.errors import TrainError
from slm_train.model.chat_format import ChatFormat
from slm_train.model.new_model import new_config, new_tokenizer
from slm_train.options.model import ModelOptions

CAUSAL_REMEDY = "give a model that predicts each token from those before it"
_COPY_AGAIN = "its files are damaged or not those of a tokenizer; copy it again or give another"


@dataclass(frozen=True)
class BaseModel:
    """Configuration and tokenizer of a base model, and where to load its weights from.

    Attributes:
        name: A name that resolves on other machines too (hub name, ``sample``) if there is one, else the path that the
            user gave. Empty for a model from scratch.
        location: Folder or hub name for ``from_pretrained``.
        source: The location with its loading options; None for a model from scratch.
        note: A line to print, if the hub could not be reached and the cached copy is used.
        tokenizer_name: The name or path that the tokenizer was loaded from.
        chat: How conversations are written; None for a run on other data.
        first_added_token: The first of the tokens that the run added to the vocabulary.
    """

    name: str
    location: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    source: BaseLocation | None = None
    note: str = ""
    tokenizer_name: str = ""
    chat: ChatFormat | None = None
    first_added_token: int | None = None

    @cached_property
    def vocabulary(self) -> int:
        """The number of rows that the embeddings need: the tokenizer's largest id plus one."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @property
    def context_length(self) -> int | None:
        """The number of positions that the model accepts; None if its configuration does not contain it."""
        # Models that read images too have a configuration of their own for the text.
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    def load_weights(self, **settings: Any) -> PreTrainedModel:
        """Load the model with the given settings of ``from_pretrained``. Raises AdapterError if that fails."""
        assert self.source
        options = self.source.from_pretrained_options | gguf_weight_options(self.source) | settings
        with _explain_loading(self.source), quiet_bitsandbytes(), parse_gguf_once(self.source.name):
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.location, **options)
        check_gguf_model(self.source, model)
        return apply_soft_cap(model)


def find_base_model(options: ModelOptions, name: str, texts: Documents) -> BaseModel:
    """Find configuration and tokenizer of the model ``name``, or make those of a new one (``--from_scratch``).

    Args:
        options: The options of the model.
        name: A hub name, a folder, or the name of a built-in base.
        texts: Training texts, on which a tokenizer is trained with ``--vocab_size``.

    Raises:
        AdapterError: For a name that cannot be found, a folder without weights, or damaged files.
        TrainError: For a broken file of ``--from_scratch``, for a model that is not causal, and for a tokenizer with
            ids beyond the embeddings unless they are resized.
    """
    if options.from_scratch:
        return _new_base_model(options, texts)
    source = probe_base(replace(find_base(name), revision=options.model_revision))
    with _explain_loading(source), parse_gguf_once(source.name):
        config = AutoConfig.from_pretrained(source.location, **source.from_pretrained_options)
    _check_causal(config)
    path = options.tokenizer_path
    tokenizer = _tokenizer_from(path) if path else load_tokenizer(source, None)
    base = BaseModel(source.name, source.location, config, tokenizer, source, _cache_note(source), path or source.name)
    if not options.resize_embeddings:
        check_vocabulary(base, configured_rows(base))
    return base


def _new_base_model(options: ModelOptions, texts: Documents) -> BaseModel:
    config = new_config(Path(str(options.from_scratch)))
    _check_causal(config)
    if options.tokenizer_path and options.vocab_size is None:
        tokenizer = _tokenizer_from(options.tokenizer_path)
    else:
        tokenizer = new_tokenizer(options.vocab_size, texts, config)
    config.vocab_size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, token, getattr(tokenizer, token))
    return BaseModel("", "", config, tokenizer)


def _check_causal(config: PretrainedConfig) -> None:
    if fault := find_config_fault(config):
        raise TrainError(f"{fault}; {CAUSAL_REMEDY}")


def check_vocabulary(base: BaseModel, rows: int, *, any_token: bool = False) -> None:
    """Raise TrainError if a token has no row in embeddings of ``rows`` rows.

    Special tokens that occur only in a text that spells them out count with ``any_token``.
    """
    if base.vocabulary <= rows:
        return
    missing = find_token_without_row(base.tokenizer, rows, any_token=any_token)
    if missing:
        remedy = "" if base.tokenizer_name == base.name else "use the model's own tokenizer, or "
        raise TrainError(
            f"the tokenizer in {base.tokenizer_name} has the token {missing.token!r} with id {missing.id:,} (ids up to "
            f"{missing.largest:,}), but the embeddings of {base.name} have {rows:,} rows; {remedy}give "
            "--resize_embeddings to add rows and train them"
        )


def configured_rows(base: BaseModel) -> int:
    """Return the number of rows of the embeddings, without loading weights.

    The configuration's number is not relied on where it is too small: the model is made without memory for weights.
    """
    rows = getattr(base.config.get_text_config(), "vocab_size", 0) or 0
    if base.vocabulary <= rows:
        return int(rows)
    with _explain_loading_of(base), torch.device("meta"):
        return embedding_rows(AutoModelForCausalLM.from_config(base.config))


def _tokenizer_from(tokenizer_path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of another model, or one from a folder, which may contain only a tokenizer."""
    folder = Path(tokenizer_path).expanduser()
    if not folder.is_dir():
        return load_tokenizer(probe_base(find_base(tokenizer_path)), None)
    with as_adapter_error(f"the tokenizer of {folder}", _COPY_AGAIN):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return tokenizer


def _explain_loading_of(base: BaseModel) -> Any:
    assert base.source
    return _explain_loading(base.source)


def _explain_loading(source: BaseLocation) -> Any:
    """Return a context that turns any failure to load ``source`` into an AdapterError."""
    return as_adapter_error(f"the model {source.name}", source.remedy, source.hub_error)


def _cache_note(source: BaseLocation) -> str:
    if source.hub_error is None:
        return ""
    return f"{source.name}: {hub_error_reason(source.hub_error)}; using the cached copy"
