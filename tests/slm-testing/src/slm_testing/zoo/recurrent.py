"""Recurrent models, state space models, convolutions, and hybrids of them with attention."""

from slm_testing.zoo.architecture import WINDOW, bare, decoder

MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "mamba_expand": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
JAMBA = {
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
}
LINEAR_AND_FULL = ["linear_attention", "full_attention"]

RECURRENT = (
    bare("mamba", hidden_size=64, num_hidden_layers=3, state_size=8, time_step_rank=4),
    bare("mamba2", hidden_size=64, num_hidden_layers=3, state_size=16, num_heads=4, head_dim=32, n_groups=1, chunk_size=16),
    bare("falcon_mamba", hidden_size=64, num_hidden_layers=3, state_size=8, time_step_rank=4),
    bare("rwkv", hidden_size=64, attention_hidden_size=64, intermediate_size=96, num_hidden_layers=3, context_length=256),
    bare("xlstm", hidden_size=64, num_hidden_layers=3, num_heads=4, chunk_size=16),
    decoder("recurrent_gemma", windowed=True, lru_width=64, attention_window_size=WINDOW, head_dim=16, num_key_value_heads=1),
    decoder("jamba", num_hidden_layers=4, **EXPERTS, **JAMBA),
    decoder("bamba", attn_layer_indices=[1], **MAMBA2),
    decoder("zamba", num_hidden_layers=6, num_key_value_heads=4, attention_hidden_size=128, attention_head_dim=32, attn_layer_period=3, attn_layer_offset=1, mamba_dt_rank=4, mamba_d_state=8, n_mamba_heads=2),
    decoder("zamba2", num_hidden_layers=4, num_key_value_heads=4, mamba_d_state=16, n_mamba_heads=4, mamba_ngroups=1, mamba_expand=2, chunk_size=16, layers_block_type=["linear_attention", "hybrid"] * 2, hybrid_layer_ids=[1, 3], num_mem_blocks=1),
    decoder("falcon_h1", head_dim=16, mamba_d_ssm=128, **MAMBA2),
    decoder("granitemoehybrid", num_hidden_layers=4, layer_types=LINEAR_AND_FULL * 2, shared_intermediate_size=48, num_local_experts=4, num_experts_per_tok=2, **MAMBA2),
    bare("nemotron_h", hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2, head_dim=16, max_position_embeddings=256, layers_block_type=["linear_attention", "moe", "full_attention", "mlp"], ssm_state_size=16, mamba_num_heads=4, mamba_head_dim=32, n_groups=1, chunk_size=16, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, moe_shared_expert_intermediate_size=48),
    decoder("lfm2", num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2, conv_L_cache=3, block_auto_adjust_ff_dim=False),
    decoder("lfm2_moe", num_hidden_layers=4, layer_types=["conv", "full_attention"] * 2, conv_L_cache=3, num_dense_layers=1, moe_intermediate_size=48, **EXPERTS),
    decoder("qwen3_next", num_hidden_layers=4, head_dim=32, **EXPERTS, moe_intermediate_size=48, shared_expert_intermediate_size=48, **LINEAR_ATTENTION),
    decoder("qwen3_5", "qwen3_5_text", num_hidden_layers=4, head_dim=32, **LINEAR_ATTENTION),
    decoder("minimax", num_hidden_layers=4, head_dim=16, num_local_experts=4, num_experts_per_tok=2, layer_types=LINEAR_AND_FULL * 2, block_size=16),
    decoder("olmo_hybrid", num_hidden_layers=4, layer_types=LINEAR_AND_FULL * 2, **LINEAR_ATTENTION),
    decoder("kimi_linear", num_hidden_layers=4, num_key_value_heads=4, moe_intermediate_size=48, num_experts=4, num_experts_per_token=2, layer_types=LINEAR_AND_FULL * 2, linear_head_dim=16, linear_num_heads=4, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=16, v_head_dim=16),
)
