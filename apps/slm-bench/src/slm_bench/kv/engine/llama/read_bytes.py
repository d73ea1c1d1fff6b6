"""The bytes that one token of a single request needs, by format of the weights."""

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

GROUP = 32  # weights that share a scale; layers whose inputs are no multiple of it are not quantised
BYTES = {  # of a weight, with its share of scale and minimum
    "float32": 4.0,
    "F32": 4.0,
    "bfloat16": 2.0,
    "BF16": 2.0,
    "float16": 2.0,
    "F16": 2.0,
    "q8": 34 / GROUP,
    "Q8_0": 34 / GROUP,
    "q4": 20 / GROUP,
    "Q4_0": 18 / GROUP,
}
QUANTISED_HEAD = "q8"  # of q4 and Q4_0, too
HALF = 2  # bytes of a key or value in bfloat16 or float16, which llama.cpp uses with all weights


def read_bytes(model: Any, format: str, tokens: int) -> float:
    """Return the bytes of linear weights in ``format``, and of the keys and values of ``tokens`` tokens.

    Other parameters, biases and norms, are small, and embeddings are looked up.
    """
    head = model.get_output_embeddings()
    linears = [module for module in model.modules() if isinstance(module, (nn.Linear, Conv1D))]
    weights = sum(_weight_bytes(linear, format, linear is head) for linear in linears)
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return weights + 2 * config.num_hidden_layers * heads * width * (4 if format == "float32" else HALF) * tokens


def _weight_bytes(linear: Any, format: str, is_head: bool) -> float:
    inputs = linear.in_features if isinstance(linear, nn.Linear) else linear.nx
    if BYTES[format] < HALF and inputs % GROUP:
        return 4.0 * linear.weight.numel()
    per_weight = max(BYTES[format], BYTES[QUANTISED_HEAD]) if is_head else BYTES[format]
    return per_weight * linear.weight.numel()
