"""Configurations of which no causal language model can be made."""

from __future__ import annotations

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig


def find_config_fault(config: PretrainedConfig) -> str | None:
    """Return why no causal language model can be made of ``config``, without a full stop; None if one can.

    transformers would load a model with an encoder without it. That a model's logits do not depend on later tokens is
    verified where it is loaded for training or generation.
    """
    kind = getattr(config, "model_type", type(config).__name__)
    if getattr(config, "is_encoder_decoder", False):
        return f"{kind} is not a causal language model: it has an encoder besides its decoder"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return f"{kind} is not a causal language model: transformers has no such class for it"
    return None
