"""Preparation of a 4-bit base for training adapters over it (QLoRA)."""

from __future__ import annotations

from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel

from slm_adapters.base.quantization import keep_layout


def prepare_four_bit(model: PreTrainedModel, *, gradient_checkpointing: bool) -> PreTrainedModel:
    """Freeze a 4-bit model for adapters, with norms and embeddings in float32, as PEFT recommends."""
    for layer in model.modules():
        keep_layout(layer)
    return prepare_model_for_kbit_training(
        model,
        use_gradient_checkpointing=gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
