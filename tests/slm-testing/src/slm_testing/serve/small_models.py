"""Tiny models, and adapters that change their texts, saved as slm-train saves them."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from slm_adapters import ButterflyConfig, ButterflySettings, LoraSettings, add_butterfly, add_lora, load
from slm_data import sample_base

# Heads of size 32: vLLM 0.32 has no attention for smaller ones on a CPU.
SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "eos_token_id": 1,
}
MODEL_FACTORIES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**SIZES, n_positions=128)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, max_position_embeddings=128, num_key_value_heads=1, intermediate_size=48)
    ),
    "tied": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, max_position_embeddings=128, intermediate_size=48, tie_word_embeddings=True)
    ),
    # Without attention, and with attention that cannot use pages
    "mamba": lambda: MambaForCausalLM(MambaConfig(**SIZES, state_size=8)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(**SIZES)),
    # Not causal: a token also attends to later ones
    "roberta": lambda: RobertaForCausalLM(RobertaConfig(**SIZES, max_position_embeddings=130, intermediate_size=48)),
}
BUTTERFLY = ButterflyConfig(task_type="CAUSAL_LM", init_weights=False)


def save_base(folder: Path, kind: str = "llama", seed: int = 0) -> Path:
    """Save a model whose most likely token is far ahead of the others, with the built-in base's tokenizer."""
    torch.manual_seed(seed)
    model = MODEL_FACTORIES[kind]()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.25)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(sample_base()).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path | str, config: Any, seed: int = 1) -> Path:
    """Save an adapter with random weights for ``base``."""
    torch.manual_seed(seed)
    adapted = get_peft_model(load(base, device="cpu").model, copy.deepcopy(config))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def lora_config(**options: Any) -> LoraConfig:
    """Return a LoRA of rank 4 on three layers, with ``options`` changed."""
    targets = ["q_proj", "v_proj", "down_proj"]
    return LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": targets, **options})


def save_adapters(folder: Path) -> dict[str, Path]:
    """Save a LoRA (red) and a butterfly (moth) that change the texts of the built-in base, as slm-train does."""
    folders = {}
    for name in ("red", "moth"):
        base = load("sample", device="cpu").model
        settings = LoraSettings(r=4, alpha=8)
        model: Any = add_lora(base, settings) if name == "red" else add_butterfly(base, ButterflySettings())
        torch.manual_seed(len(name))
        with torch.no_grad():
            for key, weight in model.named_parameters():
                if "lora_B" in key or "butterfly_" in key:
                    weight.normal_(std=0.2 if "lora_B" in key else 0.05)
        model.peft_config["default"].base_model_name_or_path = "sample"
        model.save_pretrained(folder / name, save_embedding_layers=False)
        folders[name] = folder / name
    return folders


def save_tiny_model(folder: Path, scale: float = 1.0) -> Path:
    """Save a tiny random model with the built-in base's tokenizer; with a large ``scale`` its logits become NaN."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=2048, n_positions=512, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(scale)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(sample_base()).save_pretrained(folder)
    return folder
