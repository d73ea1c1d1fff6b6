"""Soft-capped attention scores (Gemma 2), which transformers' default attention leaves out."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel


def apply_soft_cap(model: PreTrainedModel) -> PreTrainedModel:
    """Switch ``model`` to eager attention if its scores are soft-capped; return it.

    transformers 5.19 chooses ``sdpa`` for these models, which ignores the cap with which they were trained: the
    logits of a small Gemma 2 differ by up to 1e-2.
    """
    config: Any = model.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) and config._attn_implementation == "sdpa":
        model.set_attn_implementation("eager")
    return model
