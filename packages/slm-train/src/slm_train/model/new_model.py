"""Configuration and tokenizer of a model that is trained from random weights (``--from_scratch``)."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from slm_data import Documents, train_tokenizer
from slm_train.errors import TrainError


def new_config(path: Path) -> PretrainedConfig:
    """Read a model configuration from a config.json. Raises TrainError for any other file."""
    try:
        settings = json.loads(path.read_text())
        return AutoConfig.for_model(settings.pop("model_type"), **settings)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise TrainError(
            f"--from_scratch {path}: not a model configuration ({error}); it must be a config.json with a model_type"
        ) from error


def new_tokenizer(vocab_size: int | None, documents: Documents, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer on the texts of ``documents``. Raises TrainError without ``vocab_size``."""
    if vocab_size is None:
        raise TrainError("--from_scratch needs a tokenizer: give --vocab_size to train one, or --tokenizer_path")
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return train_tokenizer(documents.texts(), vocab_size, context or VERY_LARGE_INTEGER)
