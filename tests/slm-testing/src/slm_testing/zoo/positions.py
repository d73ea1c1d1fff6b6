"""Decoders with learned, sinusoidal or ALiBi positions."""

from slm_testing.zoo.architecture import GPT2_SIZES, POSITIONS, bare, decoder

POSITIONAL = (
    bare("gpt2", **GPT2_SIZES),
    bare("gpt2_scaled", "gpt2", **GPT2_SIZES, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True),
    bare("gpt_bigcode", **GPT2_SIZES, multi_query=True),
    bare("openai_gpt", "openai-gpt", **GPT2_SIZES),
    bare("ctrl", **GPT2_SIZES, dff=96),
    decoder("opt", ffn_dim=96, word_embed_proj_dim=64),
    decoder("opt_projected", "opt", ffn_dim=96, word_embed_proj_dim=32, do_layer_norm_before=False),
    decoder("biogpt"),
    decoder("xglm", d_model=64, ffn_dim=96, num_layers=3, attention_heads=4),
    decoder("falcon", num_kv_heads=2, new_decoder_architecture=True, alibi=False, bias=False, parallel_attn=True),
    decoder("falcon_alibi", "falcon", alibi=True, bias=True, parallel_attn=False, multi_query=False),
    bare("bloom", hidden_size=64, n_layer=3, n_head=4),
    bare("mpt", d_model=64, n_heads=4, n_layers=3, expansion_ratio=2, max_seq_len=POSITIONS),
    decoder("roberta_decoder", "roberta", is_decoder=True),
    decoder("bert_decoder", "bert", is_decoder=True),
)
