"""Which layers are quantised, and in how many bits."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from slm_kv.linear.block_formats import GROUP, BlockFormat
from slm_kv.linear.layer_selection import weight_OI

QuantisedFormat = Literal["q8", "q4"]
Weights = Literal["float32", "bfloat16", "q8", "q4"]


def layer_format(layer: Any, weights: QuantisedFormat | None, is_head: bool) -> BlockFormat | None:
    """The format of a layer's blocks; None if it is not quantised.

    The head has 8 bits in any case: it decides between tokens, and the embedding that is tied to it feeds all layers.
    """
    if weights is None or weight_OI(layer).shape[1] % GROUP:
        return None
    return "q8" if is_head or weights == "q8" else "q41"


def head_names(model: nn.Module) -> set[str]:
    """The names of the output embeddings of a model, or of the models in a ModuleList."""
    getters: list[Any] = [getattr(module, "get_output_embeddings", None) for module in model.modules()]
    heads = [head for getter in getters if callable(getter) and (head := getter())]
    return {name for name, module in model.named_modules(remove_duplicate=False) if any(module is h for h in heads)}
