"""Tiny models that the engine must refuse, or serve with care."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    DeepseekV3Config,
    DiffLlamaConfig,
    FalconH1Config,
    Gemma3Config,
    Lfm2Config,
    MambaConfig,
    MptConfig,
    NemotronConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    StableLmConfig,
)

from slm_testing.kv.tiny_models import GROUPED_HEADS, SIZES, randomize

ORIGINAL_POSITIONS = 16
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 1.7, 2.4, 3.1],
    "original_max_position_embeddings": ORIGINAL_POSITIONS,
    "factor": 4.0,
}
SMALL: dict[str, Any] = {**SIZES, **GROUPED_HEADS, "pad_token_id": 0}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 2,
}
MAMBA: dict[str, Any] = {
    "head_dim": 8,
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "bloom": lambda: BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
    "mpt": lambda: MptConfig(vocab_size=97, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    "mamba": lambda: MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=8, time_step_rank=4),
    "lfm2": lambda: Lfm2Config(**SMALL, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "deepseek_v3": lambda: DeepseekV3Config(**{**SMALL, **LATENT}),
    "diffllama": lambda: DiffLlamaConfig(**SMALL),
    "falcon_h1": lambda: FalconH1Config(**SMALL, **MAMBA),
    "roberta": lambda: RobertaConfig(**SIZES, intermediate_size=48, pad_token_id=1),
    "stablelm": lambda: StableLmConfig(**SMALL),
    "nemotron": lambda: NemotronConfig(**SMALL),
    "longrope": lambda: Phi3Config(
        **SMALL, rope_parameters=LONGROPE, original_max_position_embeddings=ORIGINAL_POSITIONS
    ),
    "gemma3_multimodal": lambda: Gemma3Config(
        text_config={**SMALL, "head_dim": 8, "sliding_window": 12},
        vision_config=VISION,
        mm_tokens_per_image=4,
        boi_token_index=94,
        eoi_token_index=95,
        image_token_index=96,
    ),
}


def make_other_model(name: str) -> PreTrainedModel:
    """Build one of CONFIGS with large random weights."""
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name]()).eval()
    return randomize(model)
