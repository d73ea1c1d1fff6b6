"""Mixtures of experts, and decoders with latent attention."""

from slm_testing.zoo.architecture import WINDOW, Settings, decoder

TWO_OF_FOUR: Settings = {"num_experts": 4, "num_experts_per_tok": 2}
TWO_OF_FOUR_LOCAL: Settings = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED: Settings = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 48,
    "first_k_dense_replace": 1,
}
LATENT: Settings = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}

MIXTURES = (
    decoder(
        "dbrx",
        d_model=64,
        n_heads=4,
        n_layers=3,
        max_seq_len=256,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        ffn_config={"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    ),
    decoder("deepseek_v2", **LATENT, **ROUTED),
    decoder("deepseek_v3", **LATENT, **ROUTED),
    decoder("afmoe", **TWO_OF_FOUR, moe_intermediate_size=48, head_dim=16, sliding_window=WINDOW),
    decoder("exaone_moe", **TWO_OF_FOUR, moe_intermediate_size=48, head_dim=16, sliding_window=WINDOW),
    decoder("doge", keep_window_size=WINDOW),
    decoder("glm4_moe_lite", **LATENT, **ROUTED),
    decoder(
        "longcat_flash",
        **LATENT,
        head_dim=8,
        num_layers=2,
        ffn_hidden_size=96,
        expert_ffn_hidden_size=48,
        n_routed_experts=4,
        zero_expert_num=2,
        moe_topk=2,
    ),
    decoder("solar_open", **ROUTED, head_dim=16),
    decoder("dots1", **ROUTED, head_dim=16),
    decoder("ernie4_5_moe", moe_num_experts=4, moe_k=2, moe_intermediate_size=48, moe_layer_start_index=1),
    decoder("flex_olmo", **TWO_OF_FOUR),
    decoder("glm4_moe", **ROUTED, head_dim=16),
    decoder("granitemoe", **TWO_OF_FOUR_LOCAL, embedding_multiplier=3.0, logits_scaling=2.0),
    decoder("granitemoeshared", **TWO_OF_FOUR_LOCAL, shared_intermediate_size=48),
    decoder("hunyuan_v1_moe", num_experts=4, moe_topk=2, head_dim=16),
    decoder("jetmoe", **TWO_OF_FOUR_LOCAL, kv_channels=16),
    decoder("minimax_m2", **TWO_OF_FOUR_LOCAL, head_dim=16),
    decoder("mixtral", **TWO_OF_FOUR_LOCAL, sliding_window=None),
    decoder("olmoe", **TWO_OF_FOUR),
    decoder("phimoe", **TWO_OF_FOUR_LOCAL),
    decoder("qwen2_moe", **TWO_OF_FOUR, moe_intermediate_size=48, shared_expert_intermediate_size=48),
    decoder("qwen3_moe", **TWO_OF_FOUR, moe_intermediate_size=48, head_dim=32),
)
