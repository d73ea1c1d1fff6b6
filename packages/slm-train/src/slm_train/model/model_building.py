"""From a name to a model that trains: the base, and what each mode puts on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.activations import FastGELUActivation, NewGELUActivation

from slm_adapters import (
    FULL_NAMES,
    LoraSettings,
    add_butterfly,
    add_lora,
    compute_dtype,
    four_bit_config,
    prepare_four_bit,
    quiet_bitsandbytes,
)
from slm_adapters import hub_error_reason as reason
from slm_adapters import probe_hub as hub_trouble
from slm_data import Documents, sample_base, train_tokenizer
from slm_train.arguments import ROTATING, Arguments, ModelOptions
from slm_train.errors import UserError
from slm_train.hub import explained

SAMPLE = "sample"


@dataclass(frozen=True)
class Base:
    """A base model by a name that resolves on another machine, and where it lies on this one."""

    name: str
    location: str
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    where: dict[str, Any] = field(default_factory=dict)  # revision, and whether only the cache is asked
    note: str = ""

    @property
    def context(self) -> int | None:
        """The most positions the model takes, if it says."""
        return getattr(self.config, "max_position_embeddings", None)


def find_base(options: ModelOptions, name: str, texts: Documents) -> Base:
    """Configuration and tokenizer of the model called ``name``, or of a new one from ``--from_scratch``.

    Raises UserError for a name that nothing answers to, a folder without weights, a bad config file.
    """
    if options.from_scratch:
        return _new_base(options, texts)
    location = _location(name)
    trouble = None if Path(location).is_dir() else hub_trouble(location)
    where: dict[str, Any] = {"local_files_only": True} if trouble else {}
    if options.model_revision:
        where["revision"] = options.model_revision
    with explained(name, "model", trouble):
        config = AutoConfig.from_pretrained(location, **where)
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer_path or location, **where)
    note = f"{name}: {reason(trouble)}; the copy in the cache is used" if trouble else ""
    return Base(FULL_NAMES.get(name, name), location, config, tokenizer, where, note)


def _location(name: str) -> str:
    if name == SAMPLE:
        return str(sample_base())
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return str(folder)
    if name.startswith((".", "/", "~")):
        raise UserError(f"model folder {name} does not exist; give a folder, a hub name such as distilgpt2, or sample")
    return FULL_NAMES.get(name, name)


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        hint = (
            "it holds an adapter: give its base model" if (folder / "adapter_config.json").is_file() else "give another"
        )
        raise UserError(f"model folder {folder} has no config.json; {hint}")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model folder {folder} has no weights (*.safetensors); copy them there or give another folder")


def _new_base(options: ModelOptions, texts: Documents) -> Base:
    config = _read_config(Path(str(options.from_scratch)))
    if options.vocab_size is not None:
        tokenizer = train_tokenizer(texts, options.vocab_size, config.max_position_embeddings)
    elif options.tokenizer_path:
        with explained(options.tokenizer_path, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(_location(options.tokenizer_path))
    else:
        raise UserError("--from_scratch needs a tokenizer: give --vocab_size to learn one, or --tokenizer_path")
    config.vocab_size = len(tokenizer)
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, token, getattr(tokenizer, token))
    return Base("", "", config, tokenizer)


def _read_config(path: Path) -> PretrainedConfig:
    try:
        settings = json.loads(path.read_text())
        return AutoConfig.for_model(settings.pop("model_type"), **settings)
    except (OSError, ValueError, KeyError, AttributeError) as fault:
        raise UserError(
            f"--from_scratch {path}: no model configuration ({fault}); it must be a config.json with a model_type"
        ) from fault


def build_model(arguments: Arguments, base: Base) -> PreTrainedModel:
    """The model of ``arguments.model.mode``, ready to train. Weights are float32, or 4-bit where asked for."""
    options = arguments.model
    if options.from_scratch:
        torch.manual_seed(arguments.training.seed)
        return one_kernel_gelu(AutoModelForCausalLM.from_config(base.config, dtype=torch.float32))
    model = one_kernel_gelu(_load(arguments, base))
    if options.mode == "baseline":
        return model
    adapted = add_butterfly(model, options.rotation) if options.mode in ROTATING else add_lora(model, _lora(options))
    adapted.peft_config["default"].base_model_name_or_path = base.name
    adapted.peft_config["default"].revision = options.model_revision
    # Embeddings are never adapted; PEFT would ask the hub about the base at every save to find that out.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    trained: Any = adapted  # a PeftModel trains and saves like the model it holds
    return trained


def one_kernel_gelu(model: PreTrainedModel) -> PreTrainedModel:
    """GPT-2's ``gelu_new`` is eight passes over memory, and eight tensors kept for the way back; the same
    function exists as one. Its configuration keeps the old name, so that what is saved is GPT-2."""
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(layer, name, nn.GELU(approximate="tanh"))
    return model


def _load(arguments: Arguments, base: Base) -> PreTrainedModel:
    training, options = arguments.training, arguments.model
    settings: dict[str, Any] = {"dtype": torch.float32, **base.where}
    if options.four_bit:
        dtype = compute_dtype(training.device, training.bf16)
        settings |= {"quantization_config": four_bit_config(dtype), "device_map": {"": training.device}}
    with explained(base.name, "model"), quiet_bitsandbytes():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base.location, **settings)
    if options.four_bit:
        model = prepare_four_bit(model, gradient_checkpointing=training.gradient_checkpointing)
    return model


def _lora(options: ModelOptions) -> LoraSettings:
    return LoraSettings(
        r=options.lora_r,
        alpha=options.lora_alpha,
        dropout=options.lora_dropout,
        target_modules=tuple(options.target_modules),
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
    )
