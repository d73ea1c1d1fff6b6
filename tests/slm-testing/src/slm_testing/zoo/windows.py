"""Decoders in which some layers see only the last ``WINDOW`` tokens, or chunks of as many."""

from typing import Any

from slm_testing.zoo.architecture import SIZES, TOKEN_IDS, VOCABULARY, WINDOW, Architecture, Settings, bare, decoder

GEMMA3: Settings = SIZES | {"num_hidden_layers": 6, "head_dim": 32, "num_key_value_heads": 1}
VISION: Settings = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
GEMMA3_IMAGE_TOKENS: Settings = {
    "mm_tokens_per_image": 4,
    "boi_token_index": VOCABULARY - 4,
    "eoi_token_index": VOCABULARY - 3,
    "image_token_index": VOCABULARY - 2,
}
TEXT_CONFIG: Settings = TOKEN_IDS | GEMMA3 | {"sliding_window": WINDOW}
# transformers' sdpa attention ignores the soft cap: eager attention is the model.
SOFT_CAP: Settings = {"attn_logit_softcapping": 4.0, "attn_implementation": "eager"}
TWO_KINDS = ["sliding_attention", "full_attention"]


def windowed(name: str, model_type: str = "", **settings: Any) -> Architecture:
    """Return an architecture of four layers with the usual name of the window."""
    return decoder(name, model_type, windowed=True, **{"num_hidden_layers": 4, "sliding_window": WINDOW} | settings)


WINDOWS = (
    windowed("mistral", head_dim=24),
    windowed("ministral", layer_types=TWO_KINDS * 2, head_dim=16),
    windowed("mixtral_windowed", "mixtral", num_local_experts=4, num_experts_per_tok=2),
    windowed("phi3_windowed", "phi3"),
    windowed("qwen2_windowed", "qwen2", use_sliding_window=True, max_window_layers=2),
    windowed("qwen3_windowed", "qwen3", use_sliding_window=True, max_window_layers=2, head_dim=16),
    windowed("starcoder2", use_bias=True),
    windowed("cohere2", head_dim=16, logit_scale=0.25),
    windowed("exaone4", head_dim=16),
    windowed("olmo3"),
    windowed("gemma2", **SOFT_CAP, head_dim=32, query_pre_attn_scalar=48),
    windowed("vaultgemma", **SOFT_CAP, head_dim=32, query_pre_attn_scalar=48),
    windowed("gemma3", "gemma3_text", **GEMMA3, query_pre_attn_scalar=32),
    bare(
        "gemma3_multimodal",
        "gemma3",
        windowed=True,
        text_config=TEXT_CONFIG,
        vision_config=VISION,
        **GEMMA3_IMAGE_TOKENS,
    ),
    windowed(
        "gemma3n",
        "gemma3n_text",
        head_dim=16,
        intermediate_size=[96] * 4,
        layer_types=TWO_KINDS * 2,
        num_kv_shared_layers=2,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=VOCABULARY,
        laurel_rank=8,
        activation_sparsity_pattern=[0.5, 0.5, 0.0, 0.0],
    ),
    windowed(
        "gemma4",
        "gemma4_text",
        num_hidden_layers=6,
        head_dim=32,
        hidden_size_per_layer_input=16,
        vocab_size_per_layer_input=VOCABULARY,
    ),
    windowed(
        "gpt_oss",
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    windowed("granite_swa", layer_types=TWO_KINDS * 2),
    windowed("modernbert_decoder", "modernbert-decoder", local_attention=WINDOW, global_attn_every_n_layers=2),
    bare(
        "gpt_neo",
        windowed=True,
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=WINDOW,
        max_position_embeddings=256,
    ),
    decoder(
        "llama4",
        "llama4_text",
        windowed=True,
        num_hidden_layers=4,
        head_dim=16,
        intermediate_size_mlp=96,
        num_local_experts=4,
        attention_chunk_size=WINDOW,
        moe_layers=[1, 3],
    ),
)
