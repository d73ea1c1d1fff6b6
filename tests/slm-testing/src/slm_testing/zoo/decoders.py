"""Decoders with rotary positions in which each layer sees all earlier tokens."""

from slm_testing.zoo.architecture import GPT2_SIZES, Settings, bare, decoder

LLAMA3_ROPE: Settings = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE: Settings = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
DYNAMIC_ROPE: Settings = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
LONG_ROPE: Settings = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + 0.7 * i for i in range(8)],
    "original_max_position_embeddings": 32,
    "factor": 8.0,
}
LLAMA4_SCALING: Settings = {
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}

DECODERS = (
    decoder("llama", head_dim=24, tie_word_embeddings=True),
    decoder("llama_llama3", "llama", rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
    decoder("llama_yarn", "llama", rope_parameters=YARN_ROPE, attention_bias=True),
    decoder("llama_dynamic", "llama", rope_parameters=DYNAMIC_ROPE, max_position_embeddings=32),
    decoder("apertus"),
    decoder("arcee"),
    decoder("bitnet"),
    bare("codegen", **GPT2_SIZES, n_ctx=256, rotary_dim=8),
    decoder("cohere", logit_scale=0.25, use_qk_norm=False),
    decoder("diffllama"),
    decoder("ernie4_5", head_dim=32, use_bias=True),
    decoder("gemma", head_dim=32, num_key_value_heads=1),
    decoder("glm", head_dim=16, attention_bias=True),
    decoder("glm4", head_dim=16),
    decoder("gpt_neox", rotary_pct=0.25, use_parallel_residual=True, tie_word_embeddings=False),
    decoder("gpt_neox_japanese"),
    bare("gptj", **GPT2_SIZES, rotary_dim=8),
    decoder("granite", embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5, attention_multiplier=0.2),
    decoder("helium", head_dim=16),
    decoder("hunyuan_v1_dense", head_dim=16),
    decoder("jais2"),
    decoder(
        "minicpm3",
        num_key_value_heads=4,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
    ),
    decoder("ministral3", head_dim=16, rope_parameters=YARN_ROPE | LLAMA4_SCALING),
    bare(
        "moshi",
        hidden_size=64,
        ffn_dim=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
    ),
    decoder("nanochat"),
    decoder("nemotron", partial_rotary_factor=0.5),
    decoder("olmo", clip_qkv=8.0),
    decoder("olmo2"),
    decoder("persimmon"),
    decoder("phi", partial_rotary_factor=0.5, num_key_value_heads=4, tie_word_embeddings=False),
    decoder("phi3", sliding_window=None),
    decoder(
        "phi3_longrope", "phi3", sliding_window=None, original_max_position_embeddings=32, rope_parameters=LONG_ROPE
    ),
    decoder("qwen2", tie_word_embeddings=True),
    decoder("qwen3", head_dim=32, tie_word_embeddings=True),
    decoder("seed_oss", head_dim=24, attention_bias=True),
    decoder("smollm3", num_hidden_layers=4, no_rope_layer_interval=4, tie_word_embeddings=True),
    decoder("stablelm", partial_rotary_factor=0.25, use_qkv_bias=True),
    decoder("stablelm_qk_norm", "stablelm", partial_rotary_factor=0.25, qk_layernorm=True, use_parallel_residual=True),
)
