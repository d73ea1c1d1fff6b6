"""Building the model to train: the base model's weights and the adapter of the mode."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from slm_adapters import (
    LoraSettings,
    add_butterfly,
    add_lora,
    compute_dtype,
    four_bit_config,
    prepare_four_bit,
)
from slm_train.arguments import Arguments
from slm_train.model.base_model import BaseModel
from slm_train.model.single_kernel_gelu import single_kernel_gelu
from slm_train.options import BUTTERFLY_MODES, ModelOptions


def build_model(arguments: Arguments, base: BaseModel) -> PreTrainedModel:
    """Build the model of ``arguments.model.mode``, ready to train.

    Weights are float32 whatever the dtype of the checkpoint, or 4-bit where requested: autocast needs float32 weights,
    and transformers 5 would otherwise train a bfloat16 checkpoint in bfloat16.
    """
    options = arguments.model
    if options.from_scratch:
        torch.manual_seed(arguments.training.seed)
        return single_kernel_gelu(AutoModelForCausalLM.from_config(base.config, dtype=torch.float32))
    model = single_kernel_gelu(_load_weights(arguments, base))
    if options.mode == "baseline":
        return model
    if options.mode in BUTTERFLY_MODES:
        adapted = add_butterfly(model, options.butterfly_settings)
    else:
        adapted = add_lora(model, _lora_settings(options))
    adapted.peft_config["default"].base_model_name_or_path = base.name
    adapted.peft_config["default"].revision = options.model_revision
    # Embeddings are never adapted; without this, PEFT asks the hub about the base at every save to find that out.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    trainable: Any = adapted  # a PeftModel trains and saves like the model inside it
    return trainable


def _load_weights(arguments: Arguments, base: BaseModel) -> PreTrainedModel:
    training, options = arguments.training, arguments.model
    if not options.is_four_bit:
        return base.load_weights(dtype=torch.float32)
    # Only here is bitsandbytes needed; slm_adapters imports it behind four_bit_config.
    config = four_bit_config(compute_dtype(training.device, training.bf16))
    model = base.load_weights(dtype=torch.float32, quantization_config=config, device_map={"": training.device})
    return prepare_four_bit(model, gradient_checkpointing=training.gradient_checkpointing)


def _lora_settings(options: ModelOptions) -> LoraSettings:
    return LoraSettings(
        r=options.lora_r,
        alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        target_modules=tuple(options.target_modules),
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
