"""Whether the weights of a base model will be downloaded."""

from __future__ import annotations

from huggingface_hub import constants, try_to_load_from_cache
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from slm_train.model.base_model import BaseModel

_WEIGHT_FILES = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)


def will_be_downloaded(base: BaseModel) -> bool:
    """Return whether the weights of ``base`` are on the hub and not in its cache."""
    source = base.source
    if source is None or not source.is_on_hub or source.hub_error or constants.HF_HUB_OFFLINE:
        return False
    # Otherwise the path of the file, or an object that says that the repository does not have it.
    files = (try_to_load_from_cache(source.location, name, revision=source.revision) for name in _WEIGHT_FILES)
    return not any(isinstance(file, str) for file in files)
