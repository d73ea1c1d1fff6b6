"""``Architecture``: the configuration of a tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]

VOCABULARY = 320
POSITIONS = 256
WINDOW = 16  # tokens that a windowed layer sees
TOKEN_IDS: Settings = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SIZES: Settings = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}
# Names of the sizes in configurations that follow GPT-2's.
GPT2_SIZES: Settings = {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": POSITIONS}


@dataclass(frozen=True)
class Architecture:
    """A model type of transformers with the settings of a tiny model.

    Attributes:
        name: Unique in the zoo.
        model_type: The name that ``AutoConfig.for_model`` knows.
        settings: Arguments of the configuration.
        windowed: Whether some layers see only the last ``WINDOW`` tokens, or chunks of as many.
    """

    name: str
    model_type: str
    settings: Settings
    windowed: bool = False


def decoder(name: str, model_type: str = "", *, windowed: bool = False, **settings: Any) -> Architecture:
    """Return an architecture with ``SIZES`` under their usual names. ``model_type`` is ``name`` if empty."""
    return Architecture(name, model_type or name, TOKEN_IDS | SIZES | settings, windowed)


def bare(name: str, model_type: str = "", *, windowed: bool = False, **settings: Any) -> Architecture:
    """Return an architecture whose configuration names its sizes otherwise: all are in ``settings``."""
    return Architecture(name, model_type or name, TOKEN_IDS | settings, windowed)
