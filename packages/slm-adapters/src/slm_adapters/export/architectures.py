"""The architectures that can be exported: their names in GGUF, their layouts, and what llama.cpp assumes of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slm_adapters.errors import AdapterError
from slm_adapters.export.layouts import FUSED_BY_HEAD, NORM_PLUS_ONE, ROTARY_KEY, ROTARY_QUERY, Heads, Layout

SILU, TANH_GELU = ("silu", "swish"), ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")
LLAMA_ROTARY = {"q_proj": ROTARY_QUERY, "k_proj": ROTARY_KEY}
PLAIN_ROPE, SCALED_ROPE = ("default",), ("default", "linear", "yarn")
FREQUENCY_FACTORS = (*SCALED_ROPE, "llama3")  # llama.cpp reads the tensor rope_freqs for these architectures only


@dataclass(frozen=True)
class Architecture:
    """How models of one ``model_type`` of transformers are written.

    Attributes:
        gguf: Name of the architecture in GGUF.
        label: Name for people.
        layouts: Layouts of the tensors of layers, by the last part of the layer's name. "norm" stands for all layers
            whose name ends with it.
        allowed: Values that a setting of the configuration may have, because llama.cpp computes nothing else; a
            setting that a configuration does not have is not checked.
        keys: Settings that have a key in GGUF, and the method of ``GGUFWriter`` that adds it.
        rope: Kinds of rotary positions that llama.cpp computes; none for learned positions.
        head: "optional" if the output layer is written where it is not tied to the embeddings, "required" if llama.cpp
            wants it always, "tied" if llama.cpp always uses the embeddings.
        head_size: Whether the size of a head is free, or else that of the hidden state over the number of heads.
        grouped_heads: Whether several queries may share a key, as ``num_key_value_heads`` says.
        full_layer_every: Interval of layers without a sliding window among those with one; 0 if llama.cpp has no
            sliding windows for this architecture.
    """

    gguf: str
    label: str
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    rope: tuple[str, ...] = SCALED_ROPE
    head: str = "optional"
    head_size: bool = False
    grouped_heads: bool = True
    full_layer_every: int = 0

    def heads(self, config: Any) -> Heads:
        """Return the numbers of attention heads of a configuration."""
        query = int(config.num_attention_heads)
        key_value = getattr(config, "num_key_value_heads", None) if self.grouped_heads else None
        return Heads(query, int(key_value or query))


_LLAMA = Architecture(
    gguf="llama",
    label="Llama",
    layouts=LLAMA_ROTARY,
    allowed={"hidden_act": SILU},
    rope=FREQUENCY_FACTORS,
    head_size=True,
)
_NO_BIAS = {"attention_bias": (False,), "mlp_bias": (False,)}

ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt2": Architecture(
        gguf="gpt2",
        label="GPT-2",
        allowed={
            "activation_function": (*TANH_GELU, "gelu"),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
        rope=(),
        grouped_heads=False,
    ),
    "llama": _LLAMA,
    "mistral": Architecture(**{**vars(_LLAMA), "label": "Mistral"}),
    "smollm3": Architecture(
        gguf="smollm3",
        label="SmolLM3",
        layouts=LLAMA_ROTARY,
        allowed={"hidden_act": SILU, **_NO_BIAS},
        head_size=True,
    ),
    "qwen2": Architecture(gguf="qwen2", label="Qwen2", allowed={"hidden_act": SILU}),
    "qwen3": Architecture(
        gguf="qwen3", label="Qwen3", allowed={"hidden_act": SILU, "attention_bias": (False,)}, head_size=True
    ),
    "gemma2": Architecture(
        gguf="gemma2",
        label="Gemma 2",
        layouts={"norm": NORM_PLUS_ONE},
        allowed={"hidden_activation": TANH_GELU, "attention_bias": (False,)},
        keys={
            "attn_logit_softcapping": "add_attn_logit_softcapping",
            "final_logit_softcapping": "add_final_logit_softcapping",
        },
        rope=PLAIN_ROPE,
        head="tied",
        head_size=True,
        full_layer_every=2,
    ),
    "gemma3_text": Architecture(
        gguf="gemma3",
        label="Gemma 3 (text)",
        layouts={"norm": NORM_PLUS_ONE},
        allowed={
            "hidden_activation": TANH_GELU,
            "attention_bias": (False,),
            "attn_logit_softcapping": (None,),
            "use_bidirectional_attention": (False, None),
        },
        keys={"final_logit_softcapping": "add_final_logit_softcapping"},
        rope=("default", "linear"),
        head_size=True,
        full_layer_every=6,
    ),
    "gpt_neox": Architecture(
        gguf="gptneox",
        label="GPT-NeoX",
        layouts={"query_key_value": FUSED_BY_HEAD},
        allowed={"hidden_act": (*TANH_GELU, "gelu"), "attention_bias": (True,)},
        keys={"use_parallel_residual": "add_parallel_residual"},
        head="required",
        grouped_heads=False,
    ),
    "phi": Architecture(
        gguf="phi2",
        label="Phi-2",
        allowed={"hidden_act": (*TANH_GELU, "gelu"), "qk_layernorm": (False,)},
        head="required",
    ),
    "phi3": Architecture(
        gguf="phi3",
        label="Phi-3",
        allowed={"hidden_act": SILU, "attention_bias": (False,)},
        rope=(*SCALED_ROPE, "longrope"),
    ),
    "olmo2": Architecture(
        gguf="olmo2",
        label="OLMo2",
        allowed={"hidden_act": SILU, "attention_bias": (False,)},
        head="required",
    ),
    "granite": Architecture(
        gguf="granite",
        label="Granite",
        layouts=LLAMA_ROTARY,
        allowed={"hidden_act": SILU},
        keys={
            "attention_multiplier": "add_attention_scale",
            "embedding_multiplier": "add_embedding_scale",
            "residual_multiplier": "add_residual_scale",
            "logits_scaling": "add_logit_scale",
        },
        rope=FREQUENCY_FACTORS,
    ),
}


def find_architecture(config: Any) -> Architecture:
    """Return how a model with ``config`` is written. Raises AdapterError for a ``model_type`` without an entry."""
    if architecture := ARCHITECTURES.get(config.model_type):
        return architecture
    known = ", ".join(architecture.label for architecture in ARCHITECTURES.values())
    raise AdapterError(
        f"models of the type {config.model_type!r} cannot be exported to GGUF; these can: {known}. Merge the adapter, "
        "and convert the folder with llama.cpp's convert_hf_to_gguf.py"
    )
