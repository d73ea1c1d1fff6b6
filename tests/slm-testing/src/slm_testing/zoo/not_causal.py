"""Models that must be refused: each token sees later ones, or there is an encoder besides the decoder."""

from slm_testing.zoo.architecture import SIZES, bare, decoder

ENCODERS = (
    decoder("bert"),
    decoder("roberta"),
    decoder("electra", embedding_size=64),
    bare("xlnet", d_model=64, n_layer=3, n_head=4, d_inner=96),
)
ENCODER_DECODERS = (
    bare("t5", d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4),
    bare("bart", d_model=64, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=96, decoder_ffn_dim=96),
    bare("t5gemma", encoder=SIZES | {"head_dim": 16}, decoder=SIZES | {"head_dim": 16}),
)
