"""Building the model to train: the base model's weights and the adapter of the mode."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from slm_adapters import (
    LoraSettings,
    add_butterfly,
    add_lora,
    add_oft,
    apply_soft_cap,
    embedding_rows,
    four_bit_config,
    prepare_four_bit,
    resize_embeddings,
)
from slm_train.arguments import Arguments, autocast_dtype
from slm_train.model.base_model import BaseModel, check_vocabulary
from slm_train.model.chat_format import end_answers
from slm_train.model.single_kernel_gelu import single_kernel_gelu
from slm_train.options.model import BUTTERFLY_MODES, ModelOptions


def build_model(arguments: Arguments, base: BaseModel) -> PreTrainedModel:
    """Build the model of ``arguments.model.mode``, ready to train.

    Weights are float32 whatever the dtype of the checkpoint, or 4-bit where requested: autocast needs float32 weights,
    and transformers 5 would otherwise train a bfloat16 checkpoint in bfloat16.
    """
    options = arguments.model
    if options.from_scratch:
        torch.manual_seed(arguments.training.seed)
        new_model = AutoModelForCausalLM.from_config(base.config, dtype=torch.float32)
        return _end_answers(apply_soft_cap(single_kernel_gelu(new_model)), base)
    model, new_rows = _load_weights(arguments, base)
    single_kernel_gelu(model)
    if options.mode == "baseline":
        return _end_answers(model, base)
    adapted = add_adapter(model, options, new_rows)
    adapted.peft_config["default"].base_model_name_or_path = base.name
    adapted.peft_config["default"].revision = options.model_revision
    # What is trained of the embeddings (an adapter on them, --modules_to_save, new rows) is saved in any case. Without
    # this, PEFT asks the hub about the base at every save, to find out whether to save the whole embeddings too.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    # PEFT writes a README.md beside every adapter that names the path of the base. A run writes its own card.
    adapted.create_or_update_model_card = _write_no_card
    trainable: Any = adapted  # a PeftModel trains and saves like the model inside it
    return _end_answers(trainable, base)


def _end_answers(model: PreTrainedModel, base: BaseModel) -> PreTrainedModel:
    if base.chat:
        end_answers(model, base.chat)
    return model


def _write_no_card(*_: Any, **__: Any) -> None:
    pass


def add_adapter(model: PreTrainedModel, options: ModelOptions, new_rows: int) -> PeftModel:
    """Return ``model`` with the adapter of the mode; ``new_rows`` of its embeddings are trained too."""
    if options.mode in BUTTERFLY_MODES:
        return add_butterfly(model, replace(options.butterfly_settings, new_rows=new_rows))
    if options.mode == "oft":
        return add_oft(model, replace(options.oft_settings, new_rows=new_rows))
    return add_lora(model, _lora_settings(options, new_rows))


def _load_weights(arguments: Arguments, base: BaseModel) -> tuple[PreTrainedModel, int]:
    """Return the base model, and the number of rows that were added to its embeddings.

    Raises TrainError for a token without a row.
    """
    training, options = arguments.training, arguments.model
    if not options.is_four_bit:
        model = base.load_weights(dtype=torch.float32)
        return model, fit_embeddings(model, base, options)
    # Only here is bitsandbytes needed; slm_adapters imports it behind four_bit_config.
    config = four_bit_config(autocast_dtype(training))
    model = base.load_weights(dtype=torch.float32, quantization_config=config, device_map={"": training.device})
    new_rows = fit_embeddings(model, base, options)
    return prepare_four_bit(model, gradient_checkpointing=training.gradient_checkpointing), new_rows


def fit_embeddings(model: PreTrainedModel, base: BaseModel, options: ModelOptions) -> int:
    """Return the number of new rows at the end of the embeddings. Raises TrainError for a token without a row.

    Embeddings may have had rows without a token, which are new if tokens were added for them.
    """
    if options.resize_embeddings:
        added = resize_embeddings(model, base.vocabulary)
        first = base.first_added_token
        return added if first is None else max(added, embedding_rows(model) - first)
    check_vocabulary(base, embedding_rows(model))
    return 0


def _lora_settings(options: ModelOptions, new_rows: int) -> LoraSettings:
    return LoraSettings(
        r=options.lora_r,
        alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        target_modules=tuple(options.target_modules),
        modules_to_save=tuple(options.modules_to_save),
        new_rows=new_rows,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
